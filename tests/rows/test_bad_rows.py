"""One rule says what becomes of a bad row, wherever rows are read."""

import logging

import pytest

from llavakit.rows.bad_rows import BadAnnotation, BadAnnotations, BadRows, log_left_out
from llavakit.rows.schema import BadRow


def test_the_rule_is_the_same_for_rows_and_annotations() -> None:
    for rule, fault, ending in (
        (BadRows, BadRow, "no."),
        (BadAnnotations, BadAnnotation, "no. --on_bad_row skip leaves such annotations out."),
    ):

        def odd(number: int, fault: type[ValueError] = fault) -> int:
            if number % 2 == 0:
                raise fault(f"{number}: no.")
            return number

        with pytest.raises(fault, match=f"^0: {ending}$"):
            list(rule().map(odd, range(5)))
        bad = rule("skip")
        assert list(bad.map(odd, range(5))) == [1, 3] and bad.reasons == ["0: no.", "2: no.", "4: no."]
        assert bad.report() == f"3 {rule.noun}(s) left out:\n  0: no.\n  2: no.\n  4: no."
        with pytest.raises(ValueError, match="on_bad_row='stop' is unknown; choose one of 'error', 'skip'"):
            rule("stop")


def test_another_fault_is_not_a_bad_row() -> None:
    with pytest.raises(KeyError):
        list(BadRows("skip").map({}.__getitem__, [1]))


def test_a_long_list_is_cut_in_the_log_and_an_empty_one_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        log_left_out([])
        assert not caplog.records
        log_left_out([f"row {number}" for number in range(25)])
    (record,) = caplog.records
    assert record.getMessage().startswith("25 row(s) left out:\n  row 0\n") and "row 20" not in record.getMessage()
    assert record.getMessage().endswith("row 19\n  ... and 5 more")


def test_the_former_name_still_imports() -> None:
    from llavakit.data_generation.contexts import bad_annotations

    assert bad_annotations.BadAnnotations is BadAnnotations
