"""A quickstart's checkpoint as GGUF: its exam answered by transformers and by real llama.cpp, in each precision.

    llavakit quickstart --output_dir run
    python benchmarks/gguf_answers.py run/model [--outtypes f32 f16 q8_0] [--questions 50]

Needs `llavakit[gguf]` and `xllamacpp`. A row has the share of right answers, and the share of answers that are those of
transformers in float32; those that are not stand below it.
"""

import argparse
import tempfile
from pathlib import Path

from llavakit.checkpoints.converting import export_checkpoint
from llavakit.checkpoints.loading import load_model, load_processor
from llavakit.checkpoints.proof.llama_cpp import llama_cpp
from llavakit.inference.engine import Question
from llavakit.inference.server_engine import ServerEngine
from llavakit.quickstart.evaluate import MAX_NEW_TOKENS, Item, accuracy, answers, make_exam
from llavakit.quickstart.world import COLOURS, SHAPES, draw_scene, held_out_pairs


def ask(base_url: str, exam: list[Item]) -> list[str]:
    """Greedy answers of a server."""
    questions = [
        Question(str(number), item.question.text, images=[draw_scene(item.scene)], max_new_tokens=MAX_NEW_TOKENS)
        for number, item in enumerate(exam)
    ]
    said = {}
    for answer in ServerEngine(base_url, "model", concurrency=1).answer(questions):
        if answer.text is None:
            raise ValueError(f"question {answer.id}: {answer.error}")
        said[answer.id] = answer.text.strip()
    return [said[question.id] for question in questions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a checkpoint of quickstart or compare")
    parser.add_argument("--seed", type=int, default=0, help="of its world")
    parser.add_argument("--outtypes", nargs="+", default=["f32", "f16", "q8_0"])
    parser.add_argument("--questions", type=int, default=50, help="of each of the four kinds")
    args = parser.parse_args()

    pairs = frozenset((colour, shape) for colour in COLOURS for shape in SHAPES)
    exam = make_exam(args.seed, pairs, held_out_pairs(args.seed), args.questions)
    model, processor = load_model(args.model, dtype="float32"), load_processor(args.model)
    reference = answers(model, processor, exam, show_progress=False)
    print(f"{len(exam)} questions\n\n                right   as transformers")
    print(f"transformers   {accuracy(exam, reference)['all']:>6.1%}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for outtype in args.outtypes:
            folder = Path(scratch) / outtype
            export_checkpoint(args.model, folder, "gguf", outtype=outtype, square_pictures=True)
            with llama_cpp(folder / f"model-{outtype}.gguf", folder / f"mmproj-{outtype}.gguf") as server:
                said = ask(server.base_url, exam)
            same = [one == other for one, other in zip(said, reference, strict=True)]
            print(f"{outtype:<14} {accuracy(exam, said)['all']:>6.1%} {sum(same) / len(same):>16.1%}", flush=True)
            for item, one, other, equal in zip(exam, said, reference, same, strict=True):
                if not equal:
                    print(f"    {item.question.text}\n        {other!r}, llama.cpp {one!r}")


if __name__ == "__main__":
    main()
