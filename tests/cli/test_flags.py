"""Launch lines: FastDeploy's own, what is refused and how, and what every flag becomes."""

from __future__ import annotations

import argparse
import itertools
import shlex
from pathlib import Path

import pytest

from ernie_backend.cli.fastdeploy_flags import NOT_SUPPORTED_YET, WITHOUT_MEANING
from ernie_backend.cli.flags import ServeOptions, add_arguments, normalise, read_options
from ernie_backend.errors import ConfigError

# FastDeploy's command line (`openai/utils.py`, `engine/args_utils.py`), and the flags of other servers that its tutorials show.
FASTDEPLOY_FLAGS = """
    model host port workers metrics-port controller-port engine-worker-queue-port cache-queue-port served-model-name revision
    model-config-name tokenizer tokenizer-base-url max-model-len max-num-seqs max-num-batched-tokens tensor-parallel-size data-parallel-size
    local-data-parallel-id enable-expert-parallel block-size num-gpu-blocks-override gpu-memory-utilization kv-cache-ratio
    max-num-partial-prefills max-long-partial-prefills long-prefill-token-threshold enable-chunked-prefill static-decode-blocks
    prealloc-dec-block-slot-num-threshold use-warmup enable-prefix-caching enable-output-caching swap-space kvcache-storage-backend
    write-policy quantization load-choices load-strategy rsync-config dynamic-load-weight speculative-config graph-optimization-config
    use-cudagraph enable-mm reasoning-parser tool-call-parser tool-parser-plugin chat-template limit-mm-per-prompt mm-processor-kwargs
    max-encoder-cache max-processor-cache disable-chunked-mm-input enable-mm-output enable-logprob max-logprobs logprobs-mode seed
    enable-early-stop early-stop-config guided-decoding-backend guided-decoding-disable-any-whitespace logits-processors lm_head-fp32
    plas-attention-config splitwise-role innode-prefill-ports cache-transfer-protocol pd-comm-port rdma-comm-ports ips scheduler-name
    scheduler-host scheduler-port scheduler-db scheduler-password scheduler-ttl scheduler-topic scheduler-max-size scheduler-min-load-score
    scheduler-load-shards-num scheduler-sync-period scheduler-expire-period scheduler-release-load-expire-period scheduler-reader-parallel
    scheduler-writer-parallel scheduler-reader-batch-size scheduler-writer-batch-size router max-waiting-time max-concurrency timeout
    timeout-graceful-shutdown api-key runner convert task model-impl override-pooler-config enable-eplb eplb-config
    disable-custom-all-reduce enable-flashinfer-allreduce-fusion disable-sequence-parallel-moe use-internode-ll-two-stage enable-chunked-moe
    chunked-moe-size enable-overlap-schedule shutdown-comm-group-if-worker-idle enable-entropy enable-keep-sampling-mask
    routing-replay-config skip-port-check config max-log-len trust-remote-code enable-lora generation-config
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    return parser


def read(line: str, *, on_gpu: bool = False) -> ServeOptions:
    return read_options(_parser().parse_args(normalise(shlex.split(line))), on_gpu=on_gpu)


def test_every_fastdeploy_flag_works_or_is_refused_or_is_explained() -> None:
    known = {flag.lstrip("-") for action in _parser()._actions for flag in action.option_strings}
    assert {name.replace("_", "-") for name in FASTDEPLOY_FLAGS.split()} <= known
    assert not set(NOT_SUPPORTED_YET) & set(WITHOUT_MEANING)


@pytest.mark.parametrize(
    "line",
    [
        "--port 8180 --metrics-port 8181 --engine-worker-queue-port 8182 --max-model-len 32768 --max-num-seqs 32",
        '--load_choices "default_v1" --port 8180 --metrics-port 8181 --cache-queue-port 8182 --max-model-len 32768 --max-num-seqs 32',
        "--port 8180 --metrics-port 8181 --engine_worker_queue_port 8182 --max_model_len=32768 --max-num-seqs 32 --load-choices=default_v1",
    ],
)
def test_launch_lines_of_the_small_model_work_unchanged(line: str) -> None:
    options = read(f"--model baidu/ERNIE-4.5-0.3B-PT {line}")
    assert (options.port, options.metrics_port, options.host) == (8180, 8181, "0.0.0.0")
    assert (options.engine.max_model_len, options.engine.max_num_seqs) == (32768, 32)
    assert options.model_name == "ERNIE-4.5-0.3B-PT"
    assert any("-queue-port has no effect: " in note for note in options.notes)


def test_a_model_in_hugging_faces_cache_keeps_its_name() -> None:
    folder = "hub/models--baidu--ERNIE-4.5-0.3B-PT/snapshots/05c8ce7b2e7a"
    assert read(f"--model {folder}").model_name == read(f"--model {folder}/").model_name == "ERNIE-4.5-0.3B-PT"
    assert read("--model /data/snapshots/ERNIE-4.5-0.3B-PT").model_name == "ERNIE-4.5-0.3B-PT", "no cache of theirs"


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        ("--port 8188 --tensor-parallel-size 8 --max-model-len 32768 --enable-logprob", "--tensor-parallel-size"),
        ("--enable-early-stop", "--enable-early-stop"),
        ("""--early-stop-config '{"enable_early_stop":true, "window_size": 1000, "threshold": 0.9}'""", "--early-stop-config"),
        ("--load-choices default_v1 --tensor-parallel-size 1 --quantization wint8", "--quantization"),
        ("--tool_parser_plugin plugin.py", "--tool-parser-plugin"),
        ("--enable-prefix-caching --swap-space 50", "--swap-space"),
        ("""--speculative-config '{"method": "mtp", "num_speculative_tokens": 1, "model": "x"}'""", "--speculative-config"),
        ("--splitwise-role prefill --innode-prefill-ports 8182", "--splitwise-role"),
        ("--enable-lora", "--enable-lora"),
        ("--config serve.yaml", "--config"),
    ],
)
def test_flags_of_later_features_are_refused_by_name(line: str, flag: str) -> None:
    with pytest.raises(ConfigError, match=f"^{flag} is not supported yet"):
        read(f"--model m {line}")


def test_parsers_are_spelled_either_way() -> None:
    engine = read("--model m --reasoning-parser ernie_x1 --tool_call_parser=ernie-45-vl-thinking").engine
    assert (engine.reasoning_parser, engine.tool_call_parser) == ("ernie_x1", "ernie-45-vl-thinking")
    for line in ("--reasoning-parser qwen3", "--tool-call-parser ernie-45-vl"):
        with pytest.raises(ConfigError, match=f"^{line.split()[0]}: .* must be one of .*ernie-x1, none"):
            read(f"--model m {line}")


def test_later_features_pass_when_they_are_switched_off() -> None:
    off = " ".join(f"--{name} {values[0]}" for name, values in NOT_SUPPORTED_YET.items() if values)
    assert read(f"--model m {off}").notes == ()


def test_flags_without_meaning_say_so_once_each() -> None:
    line = " ".join(f"--{name} 1" for name in WITHOUT_MEANING)
    notes = read(f"--model m {line} --gpu-memory-utilization 0.8").notes
    assert len(notes) == len(WITHOUT_MEANING) + 1
    assert all("has no effect: " in note and note.endswith(".") for note in notes)
    assert "--use-cudagraph has no effect: the engine decides about CUDA graphs by itself." in notes
    assert read("--model m --gpu-memory-utilization 0.8", on_gpu=True).notes == ()


def test_defaults() -> None:
    options = read("--model /models/ERNIE-4.5-0.3B-PT/")
    assert options.ports == {
        "--port": ("0.0.0.0", 8180),
        "--triton-http-port": ("127.0.0.1", 8000),
        "--triton-grpc-port": ("127.0.0.1", 8001),
        "--metrics-port": ("127.0.0.1", 8002),
    }
    assert (options.served_model_name, options.model_name, options.security.api_keys) == (None, "ERNIE-4.5-0.3B-PT", ())
    assert (options.engine.enable_prefix_caching, options.engine.enable_chunked_prefill, options.engine.block_size_tokens) == (
        True,
        True,
        64,
    )


def test_every_engine_flag_reaches_its_field(tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ messages }}")
    line = f"--chat-template {template} --block-size 32 --num-gpu-blocks-override 99 --seed 7 --cpu-threads 2 --generation-config vllm"
    line += (
        " --max-num-batched-tokens 512 --no-enable-prefix-caching --enable-chunked-prefill false --max-concurrency 100 --max-num-seqs 16"
    )
    engine = read(f"--model m {line}").engine
    assert (engine.block_size_tokens, engine.num_blocks, engine.seed, engine.cpu_threads, engine.generation_config) == (
        32,
        99,
        7,
        2,
        "vllm",
    )
    assert (engine.max_num_batched_tokens, engine.enable_prefix_caching, engine.enable_chunked_prefill) == (512, False, False)
    assert engine.chat_template == str(template)
    assert engine.max_concurrency == 100 and engine.load_format == "auto"
    assert read("--model m --load-format dummy").engine.load_format == "dummy"
    assert read("--model m --chat-template '{{ x }}'").engine.chat_template == "{{ x }}"


def test_a_folder_of_sampling_defaults_is_found_from_wherever_the_engine_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read("--model m --generation-config ./here").engine.generation_config == str(tmp_path / "here")
    assert read("--model m --generation-config auto").engine.generation_config == "auto"


def test_load_flags_reach_their_fields() -> None:
    engine = read("--model m --max_queued_requests 5 --max-queued-tokens 1000 --max-waiting-time 2.5").engine
    assert (engine.max_queued_requests, engine.max_queued_tokens, engine.max_waiting_seconds) == (5, 1000, 2.5)
    engine = read("--model m --max-waiting-time -1").engine
    assert (engine.max_queued_requests, engine.max_queued_tokens, engine.max_waiting_seconds) == (None, None, None)


def test_media_flags_reach_their_fields(tmp_path: Path) -> None:
    line = """--limit-mm-per-prompt '{"image": 10, "video": 3}' --mm-processor-kwargs '{"video_max_frames": 30}' --allow-private-media"""
    engine = read(f"--model m {line} --allowed-media-domains a.com,.b.org c.net --allowed-local-media-path {tmp_path} --enable-mm").engine
    assert (engine.limit_mm_per_prompt, engine.mm_processor_kwargs) == ({"image": 10, "video": 3}, {"video_max_frames": 30})
    assert (engine.allow_private_media, engine.allowed_media_domains) == (True, ["a.com", ".b.org", "c.net"])
    assert engine.allowed_local_media_path == str(tmp_path)
    options = read("""--model m --limit-mm-per-prompt '{"image": 10, "video": 3, "audio": 1}'""")
    assert options.notes == ("--limit-mm-per-prompt: audio has no effect: no model here takes any.",), "FastDeploy's own default has it"
    assert read("""--model m --limit-mm-per-prompt '{"image": 10, "audio": 0}'""").notes == ()
    assert read("--model m --max-encoder-cache 5000").engine.max_encoder_cache_tokens == 5000
    assert read("--model m --max-encoder-cache -1").engine.max_encoder_cache_tokens == -1
    assert read("--model m --max-processor-cache 0.5").engine.max_processor_cache_gib == 0.5
    assert read("--model m --max-processor-cache -1").engine.max_processor_cache_gib == -1
    default = read("--model m").engine
    assert (default.max_encoder_cache_tokens, default.max_processor_cache_gib) == (-1, -1)
    assert (default.allow_private_media, default.allowed_media_domains, default.allowed_local_media_path) == (False, None, None)


def test_other_flags() -> None:
    line = (
        "--served-model-name ernie --api-key a --api-key=--b --triton-metrics-port 9002 --triton-host 0.0.0.0 --timeout-graceful-shutdown 5"
    )
    options = read(f"--model m {line}")
    assert (options.model_name, options.served_model_name, options.security.api_keys) == ("ernie", "ernie", ("a", "--b"))
    assert (options.metrics_port, options.triton_host, options.shutdown_grace_seconds) == (9002, "0.0.0.0", 5.0)
    assert read("--model m").shutdown_grace_seconds == 30
    assert read("--model m --timeout-graceful-shutdown 0").shutdown_grace_seconds == 86400, "FastDeploy's default: no limit"


def test_metrics_port_may_be_the_main_port_as_in_fastdeploy() -> None:
    options = read("--model m --port 8000 --triton-http-port 8100 --metrics-port 8000")
    assert options.metrics_port == 8002
    assert "--metrics-port is the same as --port" in options.notes[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--block-size 3", "--block-size: block_size_tokens must be a power of two, got 3."),
        ("--max-model-len 1", "--max-model-len: max_model_len must be an integer from 2 to 16777216, got 1."),
        ("--max-num-seqs 0", "--max-num-seqs: max_num_seqs must be an integer from 1 to 4096, got 0."),
        ("--gpu-memory-utilization 1.5", "--gpu-memory-utilization: gpu_memory_utilization must be above 0 and at most 1, got 1.5."),
        ("--limit-mm-per-prompt '{\"images\": 1}'", "--limit-mm-per-prompt: Unknown key 'images' in limit_mm_per_prompt."),
        ("--limit-mm-per-prompt '{\"image\": -1}'", "--limit-mm-per-prompt: limit_mm_per_prompt.image must be an integer from 0"),
        ('--mm-processor-kwargs \'{"video_fps": "2"}\'', "--mm-processor-kwargs: mm_processor_kwargs.video_fps must be a number"),
        ("--allowed-media-domains https://a.com", "--allowed-media-domains: allowed_media_domains must be names of hosts"),
        ("--port 8001", "--port and --triton-grpc-port are both 8001. Give each a port of its own."),
        ("--max-encoder-cache -2", "--max-encoder-cache: max_encoder_cache_tokens must be an integer from -1"),
        ("--max-processor-cache -0.5", "--max-processor-cache: max_processor_cache_gib must be a number from 0 to 1024, or -1"),
        ("--max-processor-cache nan", "--max-processor-cache: max_processor_cache_gib must be a number"),
        ("--max-queued-requests -2", "--max-queued-requests: max_queued_requests must be an integer from 0 to 1048576, got -2."),
        ("--max-concurrency 0", "--max-concurrency: max_concurrency must be an integer from 1 to 1048576, got 0."),
        ("--max-queued-requests -1", "--max-queued-requests: max_queued_requests must be an integer from 0 to 1048576, got -1."),
        ("--max-queued-tokens -1", "--max-queued-tokens: max_queued_tokens must be an integer from 1 to 1099511627776, got -1."),
        ("--max-concurrency -1", "--max-concurrency: max_concurrency must be an integer from 1 to 1048576, got -1."),
        ("--limit-mm-per-prompt '{\"audio\": -1}'", "--limit-mm-per-prompt: limit_mm_per_prompt.audio must be an integer from 0"),
        ("--load-format pt", "--load-format: load_format must be one of auto, dummy, got 'pt'."),
        ("--chat-template nowhere.jinja", "--chat-template: the file 'nowhere.jinja' does not exist"),
    ],
)
def test_wrong_values_name_flag_and_rule(line: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(f"--model m {line}")
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    "line",
    [
        "--limit-mm-per-prompt 5",
        "--allowed-local-media-path /nowhere",
        "--port 0",
        "--port x",
        "--workers 0",
        "--shutdown-grace-seconds -1",
        "--enable-prefix-caching maybe",
        "--seed x",
    ],
)
def test_wrong_types_end_the_program_with_status_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read(f"--model m {line}")
    assert caught.value.code == 2
    assert line.split()[0] in capsys.readouterr().err


WHOLE, REAL = "must be a whole number", "must be a number"
NUMBERS = {
    "--max-model-len --max-num-seqs --max-num-batched-tokens --block-size --num-gpu-blocks-override --stream-interval --seed": WHOLE,
    "--max-encoder-cache --cpu-threads --max-concurrency --max-queued-requests --max-queued-tokens": WHOLE,
    "--workers --max-pending-bytes --max-restarts --max-log-len": WHOLE,
    "--gpu-memory-utilization --max-processor-cache --step-timeout --max-waiting-time --shutdown-grace-seconds": REAL,
    "--port --metrics-port --triton-http-port --triton-grpc-port": "must be a port",
}


@pytest.mark.parametrize(("flag", "wanted"), [(flag, wanted) for flags, wanted in NUMBERS.items() for flag in flags.split()])
def test_numbers_say_what_is_wanted(flag: str, wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    for given in ("x", "", *(() if wanted == REAL else ("4096.5", "1e3", "4_096", "9" * 5000))):
        with pytest.raises(SystemExit):
            read(f"--model m {flag}={given}")
        said = capsys.readouterr().err.splitlines()[-1]
        assert flag in said and wanted in said and f"got '{given[:80]}" in said and "invalid" not in said


SECONDS = "must be a number of seconds above 0 and at most 86400"
BOUNDS = {
    "--workers": ("must be a whole number from 1 to 64 (more carry no more", ("0", "-1", "65", "1000", "9" * 17)),
    "--max-pending-bytes": ("must be a whole number from 1 to 1073741824", ("0", "-1", "1073741825", "9" * 17)),
    "--max-restarts": ("must be a whole number from 0 to 1000", ("-1", "1001")),
    "--max-log-len": ("must be a whole number from 0 to 16777216", ("-1", "16777217")),
    "--shutdown-grace-seconds": (SECONDS, ("0", "-5", "86401", "nan", "inf", "-inf", "1e309", "1_000", " 5 ", "１２")),
    "--timeout-graceful-shutdown": (f"{SECONDS}, or 0 for no limit", ("-5", "86401", "nan", "inf", "1_000", " 0 ", "１２")),
    "--max-waiting-time": (f"{SECONDS}, or -1 for no limit", ("0", "-5", "-1.5", "86401", "nan", "inf", "1e309", "1_000", " -1 ", "１２")),
    "--step-timeout --max-processor-cache --gpu-memory-utilization": (REAL, ("1_0", " 1 ", "１")),
}


@pytest.mark.parametrize(("flags", "wanted", "values"), [(flags, wanted, values) for flags, (wanted, values) in BOUNDS.items()])
def test_numbers_that_cannot_be_meant_are_refused(
    flags: str, wanted: str, values: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for flag, value in itertools.product(flags.split(), values):
        with pytest.raises(SystemExit):
            _parser().parse_args([f"{flag}={value}"])
        said = capsys.readouterr().err.splitlines()[-1]
        assert flag in said and wanted in said and f"got {value!r}" in said


_NONSENSE = ("-5", "nan", "inf", "-inf", "1e309", "-1e309", "", " ", "9" * 17, "9" * 400, "1,5", "0x10", "½")


def test_no_number_takes_nonsense(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever flag there is, seeds but for: those may be any number that is not negative."""
    for flag, value in itertools.product(" ".join(NUMBERS).split(), _NONSENSE):
        if flag == "--seed" and value == "9" * 17:
            continue
        with pytest.raises((SystemExit, ConfigError)) as caught:
            read_options(_parser().parse_args(["--model", "m", f"{flag}={value}"]), on_gpu=True)
        said = capsys.readouterr().err if isinstance(caught.value, SystemExit) else caught.value.message
        assert flag in said and "must be" in said, (flag, value)


def test_every_number_is_among_them() -> None:
    """A new flag whose type speaks in argparse's words fails here."""
    types = {action.type for action in _parser()._actions if action.type is not None}
    assert types.isdisjoint((int, float))


def test_a_json_flag_says_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("""--model m --limit-mm-per-prompt '{"image": 1, "image": 2}'""")
    assert "--limit-mm-per-prompt: holds 'image' twice" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--host", "--triton-host", "--served-model-name"])
def test_names_are_there_and_on_one_line(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    for given, said in (("", "must not be empty"), ("a\nb", "must not hold line breaks"), ("a\x1b[2Jb", "must not hold line breaks")):
        with pytest.raises(SystemExit):
            _parser().parse_args([f"{flag}={given}"])
        assert f"{flag}: {said}" in capsys.readouterr().err


def test_an_empty_name_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    for given in ("''", "' '"):
        with pytest.raises(SystemExit):
            read(f"--model m --served-model-name {given}")
        assert "--served-model-name: must not be empty" in capsys.readouterr().err


def test_values_keep_their_underscores() -> None:
    assert normalise(["--served_model_name", "my_model", "--api_key=a_b", "x_y"]) == [
        "--served-model-name",
        "my_model",
        "--api-key=a_b",
        "x_y",
    ]
