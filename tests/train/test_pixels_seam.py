"""What the collator trains on and what the saved checkpoint's own processor makes of the same file, pixel for pixel."""

from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor

from llavakit import LlavaCollator

from ..picture_files import FILES
from ..warm_python import WarmPython


@pytest.mark.parametrize("shape", ["crop", "pad"])
def test_training_and_the_saved_processor_see_the_same_pixels(tiny_llava: str, tmp_path: Path, shape: str) -> None:
    trained = AutoProcessor.from_pretrained(tiny_llava, trust_remote_code=True)
    trained.image_aspect_ratio = shape
    trained.save_pretrained(tmp_path / "saved")
    served = AutoProcessor.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    assert served.image_aspect_ratio == shape
    collator = LlavaCollator(trained)
    for number, (name, (content, _)) in enumerate(FILES.items()):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(content)
        row = {
            "images": [str(path)],
            "messages": [{"role": "user", "content": "what"}, {"role": "assistant", "content": "a"}],
        }
        expected = collator([row])["pixel_values"]
        for block in ({"path": str(path)}, {"image": content}):
            talk = [{"role": "user", "content": [{"type": "image", **block}, {"type": "text", "text": "what"}]}]
            seen = served.apply_chat_template(talk, tokenize=True, return_dict=True, return_tensors="pt")[
                "pixel_values"
            ]
            assert torch.equal(seen, expected), f"{name}, given as {sorted(block)}"


STRIP = """
import sys, resource
from PIL import Image
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
processor.process_images([Image.new("RGB", (30, 30))])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
strips = [Image.new("RGB", size) for size in ((1, 30_000), (200_000, 2))]
shapes = {tuple(processor.process_images([strip])["pixel_values"].shape) for strip in strips}
assert shapes == {(1, 3, 28, 28)}, shapes
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_strip_takes_no_more_memory_than_a_photograph(tiny_llava: str, warm_python: WarmPython) -> None:
    """Resized whole to a shorter side of 28, the first would have 23 million pixels, and as floats take 300 MB."""
    done = warm_python.run(["-c", STRIP, tiny_llava])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 40, "MiB"
