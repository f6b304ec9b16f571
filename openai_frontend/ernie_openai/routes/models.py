"""GET /v1/models and /v1/models/{name}: OpenAI's fields and FastDeploy's; no path of ours is shown."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from ernie_backend.errors import ModelNotFoundError

from ..openapi import answer_of, error
from .common import Frontend, frontend_of

router = APIRouter()


def _card(name: str, frontend: Frontend) -> dict[str, Any]:
    permission = {
        "id": f"modelperm-{name}",
        "object": "model_permission",
        "created": frontend.started,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": frontend.started,
        "owned_by": "ernie-triton",
        "root": frontend.settings.model_name,
        "parent": None,
        "max_model_len": frontend.settings.max_model_len,
        "permission": [permission],
    }


@router.get("/v1/models", response_class=JSONResponse, response_model=None, responses=answer_of("ModelList"))
async def list_models(request: Request) -> dict[str, Any]:
    frontend = frontend_of(request)
    return {"object": "list", "data": [_card(name, frontend) for name in frontend.settings.listed_models]}


@router.get("/v1/models/{name:path}", response_class=JSONResponse, response_model=None, responses=answer_of("Model") | {404: error(404)})
async def get_model(request: Request, name: str) -> dict[str, Any]:
    frontend = frontend_of(request)
    listed = frontend.settings.listed_models
    if name not in listed:
        raise ModelNotFoundError(f"The model {name!r} does not exist here. Models served: {', '.join(listed)}.", param="model")
    return _card(name, frontend)
