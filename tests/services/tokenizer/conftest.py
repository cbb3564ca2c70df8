"""A running tokenizer service in front of a scripted engine."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.engine.hash_runner import HashRunner, model_info
from tests.engine.running import StartEngine, starting_engines
from tests.patience import PATIENCE_S
from tests.ports import address
from tests.services.tokenizer.fake_engine import FakeEngine
from tokenwire.v1 import engine_pb2, generation_pb2, tokenizer_pb2_grpc
from tokenwire_services.tokenizer.config import TokenizerConfig
from tokenwire_services.tokenizer.main import serve

CHATML = (
    "{%- if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "Call as <tool_call>{...}</tool_call><|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = (
    "The capital of France is Paris. The weather in Lyon is sunny today, the sky is blue. "
    'A call is {"name": "get_weather", "arguments": {"city": "Paris"}}. One two three four five. '
)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A byte-level BPE of 400 tokens with ChatML's markers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    tokenizer.add_tokens([AddedToken(marker, normalized=False) for marker in ("<tool_call>", "</tool_call>")])
    return tokenizer


@pytest.fixture(scope="session")
def files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """The tokenizer as a checkpoint's files."""
    config = {"eos_token": "<|im_end|>", "pad_token": {"content": "<|endoftext|>"}, "bos_token": None}
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
        "chat_template.jinja": CHATML.encode(),
    }


@pytest.fixture
async def engine(tokenizer: Tokenizer, files: dict[str, bytes]) -> AsyncIterator[FakeEngine]:
    """Replies with TEXT and then the end-of-sequence token."""
    end = tokenizer.token_to_id("<|im_end|>")
    info = engine_pb2.GetModelResponse(
        served_names=["tiny", "tiny-alias"],
        max_model_len=512,
        vocab_size=tokenizer.get_vocab_size(),
        eos_token_ids=[end],
        created_unix_s=1_700_000_000,
        default_sampling=generation_pb2.SamplingParams(temperature=0.5, top_k=20),
    )
    engine = FakeEngine(dict(files), saying(tokenizer, TEXT), info)
    await engine.start()
    yield engine
    await engine.stop()


def saying(tokenizer: Tokenizer, text: str) -> Callable[[object], list[int]]:
    """A reply: this text, then the end of the turn."""
    token_ids = tokenizer.encode(text + "<|im_end|>", add_special_tokens=False).ids
    return lambda request: token_ids


def said_as_sample(tokenizer: Tokenizer, number: int) -> str:
    """What the scripted engine says as sample number `number`: TEXT from its token of that number on."""
    return tokenizer.decode(tokenizer.encode(TEXT).ids[number:])


@dataclass
class Service:
    """A running tokenizer service."""

    channel: grpc.aio.Channel
    stub: tokenizer_pb2_grpc.TokenizerAsyncStub
    address: str
    session_socket: str | None = None
    """Where it serves sessions, too, if it does."""
    session_channels: list[grpc.aio.Channel] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def session_stub(self, **options: int) -> tokenizer_pb2_grpc.TokenizerAsyncStub:
        """A stub for one session, on a connection of its own: at the socket, where there is one."""
        target = self.address if self.session_socket is None else f"unix:{self.session_socket}"
        own = [("grpc.use_local_subchannel_pool", 1), *((f"grpc.{name}", to) for name, to in options.items())]
        self.session_channels.append(grpc.aio.insecure_channel(target, options=own))
        return tokenizer_pb2_grpc.TokenizerStub(self.session_channels[-1])

    async def is_up(self, name: str = "") -> bool:
        """Whether its health says that the whole, a gRPC service, or the engine at an address, serves."""
        request = health_pb2.HealthCheckRequest(service=name)
        status = (await health_pb2_grpc.HealthStub(self.channel).Check(request)).status
        return status == health_pb2.HealthCheckResponse.SERVING

    async def is_down(self, name: str = "") -> bool:
        """The contrary of `is_up`."""
        return not await self.is_up(name)


class Listener(Protocol):
    """What listens on a port, and perhaps at a `session_socket`."""

    port: int


async def start_service(*engines: Listener, wait: bool = True, **options: Any) -> AsyncIterator[Service]:
    """Run the service until the iterator is closed; `wait` until it has an engine. `options` are the
    configuration's."""
    reader, writer = os.pipe()
    stop = asyncio.Event()
    addresses = tuple(address(each.port, getattr(each, "session_socket", None)) for each in engines)
    config = TokenizerConfig(engines=addresses, port=0, status_fd=writer, **options)
    running = asyncio.create_task(serve(config, stop))
    progress = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(progress), os.fdopen(reader)
    )
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(2 if wait else 1):
            line = asyncio.create_task(progress.readline())
            await asyncio.wait([line, running], return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                await running
            port = json.loads(await line)["port"]
    async with grpc.aio.insecure_channel(address(port)) as channel:
        stub = tokenizer_pb2_grpc.TokenizerStub(channel)
        service = Service(channel, stub, f"127.0.0.1:{port}", config.session_socket)
        yield service
        stop.set()
        await running
        for each in service.session_channels:
            await each.close()
    transport.close()
    os.close(writer)


@pytest.fixture(params=["tcp", "unix"])
def engine_socket(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Where an engine serves sessions: by the gRPC library, or at a Unix socket."""
    return str(tmp_path / "engine") if request.param == "unix" else None


@pytest.fixture(params=["tcp", "unix"])
def session_socket(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Where sessions are served: by the gRPC library, or at a Unix socket."""
    return str(tmp_path / "sessions") if request.param == "unix" else None


@pytest.fixture
async def service(engine: FakeEngine) -> AsyncIterator[Service]:
    """The service, connected to the engine."""
    async for service in start_service(engine):
        yield service


@pytest.fixture
async def start_engine(tmp_path: Path, files: dict[str, bytes]) -> AsyncIterator[StartEngine]:
    """Starts real engines over hash runners that have the tokenizer's files."""
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    info = model_info(num_blocks=4096, max_model_len=2048, checkpoint=tmp_path)
    async with starting_engines(lambda: HashRunner(info)) as start:
        yield start
