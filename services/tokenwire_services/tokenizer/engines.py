"""The engines behind this service: which of them serve a model, and which one gets a request.

One link per engine. Engines that serve the same model (the same fingerprint, and a name in common) stand in
for one another: a new request goes to the one that `routing` prefers among those that admit requests, and
requests whose engine is lost, or has handed them back, go on at another one at once. Only where there is none
do they wait for their own. A name means one model: an engine that serves another by a name in use is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import grpc

from tokenwire.status import StatusError, invalid_argument, not_found, unavailable
from tokenwire.v1 import engine_pb2
from tokenwire_services.tokenizer import routing
from tokenwire_services.tokenizer.config import TokenizerConfig
from tokenwire_services.tokenizer.engine_link import RETRY_AFTER_S, EngineLink, EngineRefusedError
from tokenwire_services.tokenizer.engine_request import EngineRequest
from tokenwire_services.tokenizer.kv_view import Prefix
from tokenwire_services.tokenizer.model import Model, ModelFilesError
from tokenwire_services.tokenizer.samples import Samples

log = logging.getLogger(__name__)


class Engines:
    """All of them.

    Attributes:
        links: one per engine, in the order in which they were named.
    """

    def __init__(self, config: TokenizerConfig, on_change: Callable[[EngineLink], Awaitable[None]]) -> None:
        """`on_change` is told of a link that serves from now on, or does so no more."""
        self._on_change = on_change
        self._has_changed = asyncio.Event()
        is_watched = len(config.engines) > 1
        self.links = tuple(
            EngineLink(address, self, config.failover_timeout_s, is_watched)
            for address in config.engine_addresses
        )

    @property
    def is_serving(self) -> bool:
        """Whether any engine serves."""
        return any(link.is_serving for link in self.links)

    @property
    def models(self) -> list[Model]:
        """What is served, engine by engine.

        Raises:
            StatusError: UNAVAILABLE while there is no engine.
        """
        models = [link.model for link in self.links if link.is_serving and link.model is not None]
        if not models:
            raise self._unavailable(self.links)
        return models

    def model(self, name: str) -> Model:
        """The model of that name, or the only one for "".

        Raises:
            StatusError: NOT_FOUND, INVALID_ARGUMENT when several are served and none was named, or
                UNAVAILABLE while there is no engine.
        """
        models = self.models
        if not name:
            if not all(_are_same(models[0], model) for model in models):
                raise invalid_argument("model", f"missing; served: {_names(models)}")
            return models[0]
        for model in models:
            if name in model.info.served_names:
                return model
        away = [link for link in self.links if not link.is_serving and _has_name(link.model, name)]
        if away:
            raise self._unavailable(away)
        raise not_found("model", name, f"the model {name!r} does not exist; served: {_names(models)}")

    async def model_in_time(self, name: str, timeout_s: float) -> Model:
        """As `model`, for a caller that can wait: an engine may take so long to come.

        Raises:
            StatusError: as `model`; no engine with the model came in time.
        """
        give_up_at = asyncio.get_running_loop().time() + timeout_s
        while True:
            self._has_changed.clear()
            try:
                return self.model(name)
            except StatusError as error:
                is_unsure = any(link.model is None for link in self.links)
                if not is_unsure and error.code is not grpc.StatusCode.UNAVAILABLE:
                    raise
                try:
                    async with asyncio.timeout_at(give_up_at):
                        await self._has_changed.wait()
                except TimeoutError:
                    raise error from None

    def submit(
        self,
        model: Model,
        request: engine_pb2.GenerateRequest,
        samples: Samples,
        output: Sequence[int] = (),
    ) -> EngineRequest:
        """Start a request of a model at the engine that suits it best, behind its `output` so far.

        Raises:
            StatusError: UNAVAILABLE when no engine serves the model (any more).
        """
        serving = [
            link
            for link in self.links
            if link.is_serving and link.model is not None and _are_same(link.model, model)
            if not request.model or request.model in link.model.info.served_names
        ]
        if not serving:
            if self.is_serving:
                message = "no engine serves the model any more that the prompt was encoded for; try again"
                raise unavailable(message, 0.0)
            raise self._unavailable(self.links)
        admitting = [link for link in serving if link.is_admitting]
        link = _choose(admitting or serving, request, output)
        return link.session.submit(request, samples, output)

    async def run(self) -> None:
        """Stay connected until cancelled.

        Raises:
            ModelFilesError: no engine's tokenizer files can be served.
        """
        problems = await asyncio.gather(*map(self._run, self.links))
        raise problems[0]

    async def leave(self) -> None:
        """End all requests, at the engines too, and take no more; `run` goes on until it is cancelled."""
        await asyncio.gather(*(link.leave() for link in self.links))

    async def _run(self, link: EngineLink) -> ModelFilesError:
        try:
            await link.run()
        except ModelFilesError as error:
            if len(self.links) > 1:
                log.error("the engine at %s is left out: %s", link.address, error)
            return error
        raise AssertionError("a link runs until it is cancelled")

    # What the links tell (LinkOwner).

    def find_model(self, digest: bytes) -> Model | None:
        """A model that was loaded before."""
        models = [link.model for link in self.links if link.model is not None]
        return next((model for model in models if model.fingerprint == digest), None)

    def check(self, link: EngineLink, model: Model) -> None:
        """Refuse an engine that would give a name a second meaning.

        Raises:
            EngineRefusedError: it serves another model than a connected engine does, by the same name.
        """
        names = set(model.info.served_names)
        for other in self.links:
            theirs = other.claimed_model
            if other is link or theirs is None or theirs.fingerprint == model.fingerprint:
                continue
            if common := names.intersection(theirs.info.served_names):
                raise EngineRefusedError(
                    f"it serves {min(common)!r}, and so does the engine at {other.address}, but another "
                    "model; give one of them another name (--served-model-name)"
                )

    async def changed(self, link: EngineLink) -> None:
        """A link serves, or does so no more."""
        self._has_changed.set()
        await self._on_change(link)

    def connected(self, link: EngineLink) -> None:
        """Let the link's engine have what waits for one."""
        for other in self.links:
            if other is not link and other.has_stranded:
                self.stranded(other)

    def stranded(self, link: EngineLink) -> None:
        """Take a link's requests that have no engine to other ones, if there are any."""
        model = link.model
        if model is None or not link.has_stranded:
            return
        others = [
            other
            for other in self.links
            if other is not link and other.is_admitting
            if other.model is not None and _are_same(other.model, model)
        ]
        if not others:
            return
        requests = link.take_stranded()
        for request in requests:
            _choose(others, request.request, request.token_ids).session.adopt(request)
        if requests:
            log.warning("%d requests of the engine at %s go on elsewhere", len(requests), link.address)

    def _unavailable(self, links: Sequence[EngineLink]) -> StatusError:
        problems = "; ".join(f"no engine at {link.address}: {link.problem}" for link in links)
        return unavailable(f"{problems}; try again", RETRY_AFTER_S)


def _choose(
    links: Sequence[EngineLink], request: engine_pb2.GenerateRequest, output: Sequence[int]
) -> EngineLink:
    """The best of at least one link."""
    if len(links) == 1:
        return links[0]
    token_ids = [*request.prompt_token_ids, *output]
    prefix = Prefix(token_ids, request.context.adapter, request.context.cache_salt)
    candidates = []
    for link in links:
        assert link.model is not None
        info = link.model.info
        cached_tokens = prefix.tokens_in(link.blocks, info.kv_block_size)
        candidates.append(routing.Candidate(cached_tokens, link.load.now(info.max_running)))
    return links[routing.choose(candidates)]


def _are_same(a: Model, b: Model) -> bool:
    """Whether requests for one may go on at the other."""
    if a is b:
        return True
    return a.fingerprint == b.fingerprint and not set(a.info.served_names).isdisjoint(b.info.served_names)


def _has_name(model: Model | None, name: str) -> bool:
    return model is not None and name in model.info.served_names


def _names(models: Sequence[Model]) -> str:
    return ", ".join(dict.fromkeys(name for model in models for name in model.info.served_names))
