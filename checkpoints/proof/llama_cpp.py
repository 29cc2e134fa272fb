"""Real llama.cpp, of the package `xllamacpp`: a server on this machine in a process of its own, for a proof.

    python -I llama_cpp.py MODEL.gguf MMPROJ.gguf

writes its address and serves until its input ends. Numbers are kept in 32 bits wherever llama.cpp lets them be, so that what
a file says is compared, and not what a cache of half the size makes of it.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

PACKAGE = "xllamacpp"
CONTEXT = 2048  # tokens of a conversation and its answer


@dataclass(frozen=True)
class LlamaCpp:
    """A server of llama.cpp.

    Args:
        address: Such as `http://127.0.0.1:8080`.
    """

    address: str

    @property
    def base_url(self) -> str:
        """Where it speaks OpenAI's format."""
        return f"{self.address}/v1"

    def tokens(self, messages: list[Any]) -> list[int]:
        """The prompt of a conversation as token ids, without those of pictures."""
        prompt: str = self.post("/apply-template", {"messages": messages})["prompt"]
        mark = self.post("/props")["media_marker"]
        pieces = [
            self.post("/tokenize", {"content": piece, "add_special": first, "parse_special": True})["tokens"]
            for first, piece in zip([True] + [False] * len(prompt), prompt.split(mark), strict=False)
        ]
        return [id for piece in pieces for id in piece]

    def post(self, path: str, body: Any = None) -> Any:
        """What an address of its own gives, for a body if there is one."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.address + path, data, {"Content-Type": "application/json"})
        with urlopen(request, timeout=120) as answer:
            return json.load(answer)


def has_llama_cpp() -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


@contextlib.contextmanager
def llama_cpp(model: Path, mmproj: Path) -> Iterator[LlamaCpp]:
    """Serve two files for as long as the block runs.

    Raises:
        ChildProcessError: llama.cpp cannot load them; the message ends with what it said.
    """
    command = [sys.executable, "-I", __file__, str(model), str(mmproj)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            if not address:
                _, errors = process.communicate()
                raise ChildProcessError(f"llama.cpp cannot load {model} and {mmproj}:\n{errors.strip()[-2000:]}")
            yield LlamaCpp(address)
        finally:
            process.kill()


def main() -> None:
    import xllamacpp

    params: Any = xllamacpp.CommonParams()
    params.model.path, params.mmproj.path = sys.argv[1:3]
    params.port, params.n_ctx, params.n_parallel, params.warmup = 0, CONTEXT, 1, False
    # Its threads wait for each other in a busy loop: more than there are processors stand still
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(
        os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1
    )
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.n_gpu_layers, params.mmproj_use_gpu = 0, False
    params.verbosity = -1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
