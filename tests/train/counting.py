"""Runs what `llavakit sft` runs, and writes down each time a row is read or tokenized: a line `WHAT PROCESS` a time.

Usage: python counting.py FILE [flags of llavakit sft]
       python counting.py FILE --prepare MODEL ROWS NUM_PROC
"""

import os
import sys


def counted(function, what: str, file: str):
    def wrapper(*args, **kwargs):
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{what} {os.getpid()}\n".encode())  # a short line is written whole, whoever else writes
        os.close(descriptor)
        return function(*args, **kwargs)

    return wrapper


def main(file: str, *arguments: str) -> None:
    from llavakit.rows import schema

    schema.normalize_row = counted(schema.normalize_row, "read", file)  # before anyone has imported it from there
    from llavakit.processing.chat_encoding import ChatEncoder

    ChatEncoder.encode_rendered = counted(ChatEncoder.encode_rendered, "tokenized", file)
    if arguments[0] != "--prepare":
        from llavakit.train.sft import _run

        _run(list(arguments))
        return
    import datasets
    from transformers import AutoProcessor

    datasets.config.HF_DATASETS_CACHE = os.environ["HF_DATASETS_CACHE"]  # read at its import, which may be long ago
    from llavakit import LlavaCollator, load_conversations
    from llavakit.train.samples import prepare_samples

    _, model, rows, num_proc = arguments
    collator = LlavaCollator(AutoProcessor.from_pretrained(model), max_length=512)
    prepare_samples(load_conversations(rows), collator, num_proc=int(num_proc))


if __name__ == "__main__":
    main(*sys.argv[1:])
