"""The suite of faults, `pytest -m faults -n 0`: what is done to runs and files, and must not harm.

A case of each test comes first, in the order below, then all others in an order that
ALIGNJAX_FAULTS_SEED draws, which also draws the moments of kills and the places of damage. After
ALIGNJAX_FAULTS_MINUTES (10) no further case is begun; the others are skipped by name.
"""

import os
import random
import time
from collections.abc import Iterable, Mapping

import pytest

SEED, MINUTES = "ALIGNJAX_FAULTS_SEED", "ALIGNJAX_FAULTS_MINUTES"
# {file: {test: cases of it that come first}}
FAULTS: Mapping[str, Mapping[str, int]] = {
    "tests/commands/test_kill.py": {
        "test_killed_runs_end_with_the_same_bits": 1, "test_many_kills": 0,
        "test_many_terminations": 1,
    },
    "tests/commands/test_faults.py": {
        "test_damage_of_the_newest_checkpoint_costs_its_steps_alone": 1,
        "test_a_full_disk_ends_the_run_in_words_and_room_mends_it": 1,
    },
    "tests/rollouts/test_chain_kill.py": {
        "test_a_killed_run_ends_with_the_same_bits": 1, "test_many_kills": 0,
    },
    "tests/fuzz/test_readers.py": {
        "test_damaged_files": 10, "test_configurations_of_every_family": 1,
        "test_rows_of_every_layout": 1, "test_damaged_templates": 1,
        "test_flags_of_an_experiment": 1,
    },
    "tests/text/test_jinja_template.py": {
        "test_limits_hold_and_the_next_conversation_works": 6,
        "test_a_source_that_is_never_compiled_takes_no_question": 1,
        "test_nothing_is_left_of_a_template_whose_process_was_killed": 2,
    },
    "tests/data/test_sources.py": {
        "test_a_bad_row_is_refused_in_one_line_with_file_and_line": 40,
        "test_folders_devices_and_links_in_place_of_a_file_are_refused": 1,
        "test_a_line_without_end_is_refused_in_bounded_memory": 1,
    },
    "tests/models/checkpoints/test_forged_safetensors.py": {
        "test_header": 40, "test_damage_is_refused_or_harmless": 1, "test_links_that_leave": 2,
    },
    "tests/models/checkpoints/test_gguf_io.py": {"test_refused": 40, "test_cut_anywhere": 1},
    "tests/runs/test_ownership.py": {
        "test_a_living_process_keeps_others_out_and_a_killed_one_does_not": 1,
    },
    "tests/training/test_loop.py": {
        "test_a_signal_saves_the_step_and_the_run_goes_on_later": 1,
        "test_too_many_in_a_row_stop_the_run_with_good_checkpoints": 1,
    },
    "tests/training/test_checkpoint.py": {
        "test_a_flipped_byte_is_found_and_the_step_before_is_used": 1,
        "test_any_harmed_file_leaves_a_right_state": 1,
        "test_all_damaged_is_a_failure_that_changes_nothing": 1,
        "test_a_save_that_fails_is_said_in_words": 1,
        "test_a_save_without_progress_is_an_error_and_one_that_gets_on_is_not": 1,
    },
    "tests/training/test_metrics.py": {"test_a_torn_last_line_is_mended": 1},
    "tests/processes/test_faults.py": {
        "test_a_dead_or_frozen_peer_ends_the_others": 1,
        "test_a_terminated_process_makes_all_save_the_same_step": 1,
        "test_an_exception_on_one_host_ends_all_with_the_first_cause": 1,
        "test_every_method_goes_on_bit_for_bit": 0,
        "test_a_process_terminated_before_its_first_step_ends_all": 0,
        "test_a_process_terminated_during_an_evaluation_ends_all": 0,
        "test_processes_that_differ_are_refused": 0,
    },
    "tests/training/test_evaluators_in_loop.py": {"test_a_killed_run_ends_with_the_same_best": 0},
    "tests/web/test_serve.py": {"test_what_was_acknowledged_survives_kill_9": 0},
    "tests/feedback/test_review_kill.py": {
        "test_what_was_acknowledged_survives_kill_9_at_any_moment": 0,
    },
}  # fmt: skip
_begun = time.monotonic()


def draws(*own: object) -> random.Random:
    """Random numbers of a test: the same for the same seed of the suite."""
    return random.Random(f"{os.environ.get(SEED, '0')} {own}")


def mark(items: Iterable[pytest.Item]) -> None:
    """Marks the tests of the table."""
    for item in items:
        if _name(item) in FAULTS.get(_file(item), {}):
            item.add_marker(pytest.mark.faults)


def order(items: list[pytest.Item]) -> None:
    """A case of each test first, then the others, file by file in an order of the seed."""
    files = list(FAULTS)
    later = files.copy()
    draws("order").shuffle(later)
    seen: dict[tuple[str, str], int] = {}
    ranks = {}
    for item in items:
        file, name = key = _file(item), _name(item)
        seen[key] = seen.get(key, 0) + 1
        is_first = seen[key] <= FAULTS.get(file, {}).get(name, 0)
        own = files if is_first else later
        ranks[item] = (not is_first, own.index(file) if file in own else len(own))
    items.sort(key=ranks.__getitem__)


def skip_when_late() -> None:
    """Skips what begins after the suite's minutes."""
    minutes = float(os.environ.get(MINUTES, "10"))
    if time.monotonic() - _begun > 60 * minutes:
        pytest.skip(f"{minutes:g} minutes are over ({MINUTES})")


def _file(item: pytest.Item) -> str:
    return item.nodeid.split("::")[0]


def _name(item: pytest.Item) -> str:
    return getattr(item, "originalname", item.name)
