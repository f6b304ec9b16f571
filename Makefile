# Two commands: `make serve` and `make test`. Both set up what is missing first; a second run finds its stamps and starts at once.
#
#   make serve ARGS="--model DIR --port 9000"    flags go on to `ernie-triton serve`; without --model, the demo model is served
#   EXTRAS=gpu                                   on a GPU host whose package index has paddlepaddle-gpu
#   PYTHON=/path/to/python3.11                   the Python to make .venv from

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

EXTRAS ?= cpu
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
SERVER_STAMP := $(VENV)/.installed-$(EXTRAS)
TEST_STAMP := $(VENV)/.installed-$(EXTRAS)-test
PERF_STAMP := .venv-perf/.installed
AIPERF_STAMP := .venv-aiperf/.installed
MODEL := .cache/models/random-small
# What `make perf` measures where no model is given: ERNIE-4.5-0.3B's layout, written in seconds.
MODEL_SIZES := num_hidden_layers=4 hidden_size=256 intermediate_size=768 num_attention_heads=4 num_key_value_heads=2 head_dim=64

# Servers in tests mostly wait, kernels compute: one process more than a small machine has processors. tests/conftest.py says what stays together.
SIDE_BY_SIDE := -n 3

HAS_MODEL := $(filter --model --model=%,$(ARGS))
MODEL_ARGS := $(if $(HAS_MODEL),,--model $(MODEL))
RUNNING := $(filter --url --url=% --openai-url --openai-url=%,$(ARGS))
NEED_MODEL := $(if $(HAS_MODEL),,$(MODEL)/config.json)

.PHONY: help serve test lint perf aiperf bench doctor setup clean

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make serve    start tritonserver and the OpenAI front end (ARGS="--model DIR …")
serve: $(SERVER_STAMP)
	@exec $(BIN)/ernie-triton serve $(ARGS)

## make test     lint, then the whole test suite in three processes (ARGS goes to pytest)
test: lint $(PERF_STAMP)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

## make lint     ruff and mypy
lint: $(TEST_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

## make perf     NVIDIA's perf_analyzer against both faces, at 1 and 8 streams (ARGS="--url HOST:PORT": a running server)
perf: $(SERVER_STAMP) $(PERF_STAMP) $(if $(RUNNING),,$(NEED_MODEL))
	@exec $(BIN)/ernie-triton perf $(if $(RUNNING),,$(MODEL_ARGS)) $(ARGS)

## make aiperf   NVIDIA's AIPerf against the front end of a running server (ARGS="--url URL --tokenizer MODEL-DIR")
aiperf: $(AIPERF_STAMP)
	@exec .venv-aiperf/bin/aiperf profile --model default --endpoint-type chat --streaming --use-server-token-count --ui simple \
	  --concurrency 8 --request-count 64 --synthetic-input-tokens-mean 128 --output-tokens-mean 64 --extra-inputs ignore_eos:true \
	  --output-artifact-dir .cache/aiperf $(ARGS)

## make bench    our path against transformers on the same random checkpoint
bench: $(TEST_STAMP)
	@exec $(BIN)/python -m tests.bench $(ARGS)

## make doctor   what serving needs, and whether it is there (ARGS="--tritonserver PATH")
doctor: $(SERVER_STAMP)
	@$(BIN)/ernie-triton doctor $(ARGS)

## make setup    only install
setup: $(TEST_STAMP) $(PERF_STAMP)

## make clean    remove what the commands above made
clean:
	rm -rf $(VENV) .venv-perf .venv-aiperf .cache build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(SERVER_STAMP): pyproject.toml setup.sh
	./setup.sh venv $(VENV) $(EXTRAS),server,frontend,media
	@touch $@

$(TEST_STAMP): $(SERVER_STAMP)
	./setup.sh venv $(VENV) $(EXTRAS),server,frontend,media,test
	@touch $@

$(PERF_STAMP): setup.sh
	./setup.sh perf .venv-perf
	@touch $@

$(AIPERF_STAMP): setup.sh
	./setup.sh aiperf .venv-aiperf
	@touch $@

$(MODEL)/config.json: | $(SERVER_STAMP)
	$(BIN)/ernie-triton random-checkpoint --like ERNIE-4.5-0.3B --flavour pt --force --out $(MODEL) --set $(MODEL_SIZES)
