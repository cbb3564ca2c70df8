"""GetModel and GetTokenizerFiles: what whoever encodes for the engine learns from it."""

from __future__ import annotations

from pathlib import Path

from tests.engine.hash_runner import HashRunner, model_info
from tests.engine.running import Engine, StartEngine
from tokenwire.v1.engine_pb2 import GetModelRequest, GetTokenizerFilesRequest


async def test_get_model_says_what_is_served(engine: Engine) -> None:
    model = await engine.stub.GetModel(GetModelRequest())
    assert list(model.served_names) == ["hash-model"]
    assert (model.vocab_size, model.max_model_len, list(model.eos_token_ids)) == (1000, 256, [2])
    assert (model.kv_block_size, model.num_kv_blocks, model.max_running) == (16, 64, 8)
    assert model.max_requests == 8 + 4096
    assert (model.dtype, model.kv_cache_dtype) == ("uint32", "uint32")
    assert model.default_sampling.temperature == 0.5
    assert model.instance_id
    assert model.created_unix_s > 0


async def test_served_names_replace_the_models_own(start_engine: StartEngine) -> None:
    engine = await start_engine(served_names=("mine", "also-mine"))
    model = await engine.stub.GetModel(GetModelRequest())
    assert list(model.served_names) == ["mine", "also-mine"]


async def test_tokenizer_files_arrive_whole_in_pieces_of_at_most_a_mebibyte(
    start_engine: StartEngine, tmp_path: Path
) -> None:
    contents = {
        "tokenizer.json": bytes(range(256)) * 10_000,
        "tokenizer_config.json": b"x" * (1 << 20),
        "merges.txt": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "model.safetensors").write_bytes(b"weights are not sent")
    engine = await start_engine(HashRunner(model_info(checkpoint=tmp_path)))
    received: dict[str, list[bytes]] = {}
    async for piece in engine.stub.GetTokenizerFiles(GetTokenizerFilesRequest()):
        received.setdefault(piece.name, []).append(piece.data)
    assert {name: b"".join(pieces) for name, pieces in received.items()} == contents
    assert {name: len(pieces) for name, pieces in received.items()} == {
        "tokenizer.json": 3,
        "tokenizer_config.json": 1,
        "merges.txt": 1,
    }
