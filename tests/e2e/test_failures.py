"""Processes that are killed: streams go on when it was the engine or the tokenizer service, connections break
when it was the gateway, and the next request is served."""

import asyncio
import signal
import socket

import httpx
import openai
import psutil
import pytest

import tokenwire
from tests.e2e.questions import MODEL
from tests.e2e.stack import has_ended, running, serving
from tests.patience import eventually
from tests.ports import free_ports

HELLO = [{"role": "user", "content": "Hello"}]
LONG = {"max_tokens": 900, "ignore_eos": True}


@pytest.fixture(scope="module")
def fragile():
    """A stack whose processes the tests kill; SIGTERM still stops it cleanly."""
    with serving() as stack:
        yield stack
        children = stack.children()
        assert len(children) == 3
        assert stack.stop(signal.SIGTERM) == 0
        assert all(map(has_ended, children.values()))


@pytest.fixture
def openai_client(fragile):
    with openai.OpenAI(base_url=fragile.url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def kill(stack, name: str) -> None:
    """Kill a process of the stack, and wait until another one is ready in its place."""
    ready = f"the {name} is ready again"
    before = sum(ready in line for line in stack.lines)
    killed = stack.children()[name]
    killed.kill()
    stack.wait_for(ready, before + 1)
    assert any(f"the {name} was killed by signal 9 (SIGKILL); restarting it" in line for line in stack.lines)
    assert stack.children()[name].pid != killed.pid


def is_served(openai_client) -> bool:
    try:
        answer = openai_client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=3)
    except (openai.APIConnectionError, openai.InternalServerError):  # not yet, or 503
        return False
    return answer.usage.completion_tokens >= 1


def test_a_killed_gateway_is_restarted_and_the_next_request_is_served(fragile, openai_client):
    stream = openai_client.completions.create(
        model=MODEL, prompt="Once", max_tokens=900, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    kill(fragile, "gateway")
    with pytest.raises((openai.APIError, httpx.RemoteProtocolError)):  # the package passes the latter on
        list(stream)

    eventually(lambda: is_served(openai_client))
    eventually(fragile.is_idle)


@pytest.mark.parametrize("name", ["engine", "tokenizer"])
@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 0.9, "seed": 7}])
def test_a_stream_goes_on_where_it_was_when_a_process_behind_it_is_killed_and_restarted(
    fragile, openai_client, sampling, name
):
    request = {
        "model": MODEL,
        "prompt": "Once",
        "max_tokens": 900,
        "stream": True,
        "stream_options": {"include_usage": True},
        "extra_body": {"ignore_eos": True},
        **sampling,
    }
    undisturbed = list(openai_client.completions.create(**request))
    stream = openai_client.completions.create(**request)
    begun = [next(stream) for _ in range(20)]
    kill(fragile, name)
    disturbed = [*begun, *stream]

    assert text_of(disturbed) == text_of(undisturbed)
    usage = disturbed[-1].usage  # of the prompt, more may come from the prefix cache
    assert (usage.prompt_tokens, usage.completion_tokens) == (undisturbed[-1].usage.prompt_tokens, 900)
    eventually(fragile.is_idle)


def test_a_stream_goes_on_when_all_that_is_behind_the_gateway_is_killed_at_once(fragile, openai_client):
    request = {"model": MODEL, "prompt": "Once", "max_tokens": 900, "temperature": 0.0}
    ignoring_eos = {"extra_body": {"ignore_eos": True}}
    undisturbed = openai_client.completions.create(**request, **ignoring_eos)
    stream = openai_client.completions.create(**request, **ignoring_eos, stream=True)
    begun = [next(stream) for _ in range(20)]
    for name in ("engine", "tokenizer"):
        fragile.children()[name].kill()
    assert text_of([*begun, *stream]) == undisturbed.choices[0].text
    eventually(fragile.is_idle)


@pytest.mark.parametrize("name", ["engine", "tokenizer"])
def test_a_process_that_is_killed_is_nothing_that_a_client_notices(fragile, name):
    with tokenwire.Client(fragile.tokenizer, timeout=60) as client:
        stream = client.stream_generate("Once", **LONG)
        next(stream)
        kill(fragile, name)
        assert stream.result().usage.completion_tokens == 900


def test_a_stream_goes_on_when_its_tokenizer_service_is_told_to_stop(fragile, openai_client):
    request = {"model": MODEL, "prompt": "Once", "max_tokens": 900, "temperature": 0.0}
    ignoring_eos = {"extra_body": {"ignore_eos": True}}
    num_starts = sum("the tokenizer is ready again" in line for line in fragile.lines)
    undisturbed = openai_client.completions.create(**request, **ignoring_eos)
    stream = openai_client.completions.create(**request, **ignoring_eos, stream=True)
    begun = [next(stream) for _ in range(20)]
    fragile.children()["tokenizer"].terminate()
    assert text_of([*begun, *stream]) == undisturbed.choices[0].text
    fragile.wait_for("the tokenizer is ready again", num_starts + 1)
    eventually(fragile.is_idle)


async def test_streams_go_on_when_their_engine_is_told_to_stop_and_another_takes_its_place(fragile):
    num_starts = sum("the engine is ready again" in line for line in fragile.lines)
    async with tokenwire.AsyncClient(fragile.tokenizer, timeout=120) as client:

        async def stream(number: int, begun: asyncio.Queue[int]) -> list[int]:
            tokens = []
            async for delta in client.stream_generate(
                [5 + number], max_tokens=200, ignore_eos=True, temperature=0.0, return_token_ids=True
            ):
                tokens += delta.token_ids
                begun.put_nowait(number)
            return tokens

        async def all_streams(begun: asyncio.Queue[int]) -> list[list[int]]:
            return await asyncio.gather(*(stream(number, begun) for number in range(32)))

        undisturbed = await all_streams(asyncio.Queue())
        begun: asyncio.Queue[int] = asyncio.Queue()
        streams = asyncio.create_task(all_streams(begun))
        for _ in range(32 * 5):
            await begun.get()
        engine = fragile.children()["engine"]
        engine.terminate()
        engine.terminate()  # at once: what runs is handed back
        assert await streams == undisturbed
    fragile.wait_for("the engine exited with code 0; restarting it")
    fragile.wait_for("the engine is ready again", num_starts + 1)
    eventually(fragile.is_idle)


def test_an_engine_is_drained_from_the_command_line(fragile, openai_client):
    address = f"--engine=127.0.0.1:{fragile.engine_port}"
    with running("drain", address, "--timeout-s=5") as command:
        assert command.process.wait(30) == 0
        command.wait_for("0 requests ended, 0 were handed back")
    assert fragile.load().draining
    with running("drain", address, "--undo") as command:
        assert command.process.wait(30) == 0
    assert not fragile.load().draining
    eventually(lambda: is_served(openai_client))


def text_of(chunks) -> str:
    return "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)


def test_when_the_launcher_is_killed_nothing_is_left():
    with serving() as stack:
        children = stack.children()
        assert len(children) == 3
        stack.process.kill()
        eventually(lambda: all(map(has_ended, children.values())))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_start_stops_everything(number):
    gateway, tokenizer, engine = free_ports(3)
    with running(
        "serve", f"--port={gateway}", f"--tokenizer-port={tokenizer}", f"--engine-port={engine}"
    ) as launcher:
        launcher.wait_for("engine    | ")
        children = psutil.Process(launcher.process.pid).children()
        assert launcher.stop(number) == 0
        assert all(map(has_ended, children))


def test_a_model_that_is_not_there_stops_everything_and_says_so(tmp_path):
    gateway, tokenizer, engine = free_ports(3)
    missing = str(tmp_path / "missing")
    with running(
        "serve", missing, f"--port={gateway}", f"--tokenizer-port={tokenizer}", f"--engine-port={engine}"
    ) as launcher:
        assert launcher.process.wait(60) == 1
        launcher.wait_for(missing)
        launcher.wait_for("tokenwire serve: the engine exited with code 1 before it was ready")
        assert not any("Traceback" in line for line in launcher.lines)


def test_a_port_in_use_is_said_before_anything_starts():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with running("serve", f"--port={port}") as launcher:
            assert launcher.process.wait(30) == 1
            launcher.wait_for(f"tokenwire serve: port {port} is already in use; choose another with --port")
            assert len(launcher.lines) == 1
