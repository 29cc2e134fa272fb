"""What stands beside a score of what is known of the benchmark's questions in the training data.

A checkpoint remembers each stage's data, and what `llavakit data check-leaks` had found in it by then. What is not known is
said to be not known, and is no clean record.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def leak_flag(task: str, fingerprint: str, history: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """The flag of a task's scores.

    Args:
        task: Its name.
        fingerprint: Of the questions that were asked, see `benchmarks.fingerprint_of`.
        history: The checkpoint's `training_history`; None where it is not known, as of a served model.

    Returns:
        `leaked`: True, False, or None where it is not known; `flag`, what stands beside each score where it is true; and
        `note`, a sentence below them.
    """
    if not history:
        why = "a server does not say" if history is None else "the checkpoint does not say"
        return {"leaked": None, "flag": "", "note": f"Leaks: not known, since {why} what the model was trained on."}
    leaks, clean, unchecked = [], [], []
    for stage in history:
        name = f"{stage.get('dataset') or 'its data'} (stage {stage.get('stage')})"
        known = [line for line in stage.get("leaks") or [] if line["fingerprint"] == fingerprint]
        if not known:
            unchecked.append(name)
        elif known[-1]["leaked_questions"]:
            leaks.append((known[-1], name))
        else:
            clean.append(name)
    parts = [
        f"LEAK: {line['leaked_questions']:,} of the {line['questions']:,} questions of these files are in {name}, which the "
        "model was trained on."
        for line, name in leaks
    ]
    if clean:
        parts.append(f"Leaks: none found in {', '.join(clean)}.")
    if unchecked:
        remedy = f"`llavakit data check-leaks ROWS --against {task}=FILES` before training does"
        parts.append(f"Leaks: {', '.join(unchecked)} was not checked against these files; {remedy}.")
    leaked = True if leaks else None if unchecked else False
    flag = "; ".join(f"{line['leaked_questions']:,} of {line['questions']:,}" for line, _ in leaks)
    return {"leaked": leaked, "flag": flag, "note": " ".join(parts)}
