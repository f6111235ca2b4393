"""Which cases of the dearest tests are quick: so many of each, spread evenly; the others are slow.

What all tests must prove is proved by the slow tier; the quick one shows in minutes that nothing
is plainly broken. A test that needs over 10 CPU seconds belongs here, or is slow as a whole.
"""

from collections.abc import Iterable, Mapping

import pytest

QUICK: Mapping[str, Mapping[str, int]] = {
    "tests/algorithms/test_adapted_meshes.py": {
        "test_rows_choose_their_adapters_on_a_mesh": 0,
        "test_three_steps_agree_on_a_mesh": 0,
    },
    "tests/algorithms/test_adapted_methods.py": {"test_a_step_moves_the_adapters_alone": 3},
    "tests/algorithms/test_meshes.py": {"test_three_steps_agree_on_every_mesh": 1},
    "tests/algorithms/test_methods.py": {
        "test_comparisons_of_several_answers_are_those_of_pairs": 1,
        "test_ppo_takes_its_losses_from_a_preset": 1,
        "test_prompts_and_padding_get_no_gradient": 1,
        "test_the_first_update_finds_what_the_method_promises": 3,
    },
    "tests/algorithms/test_pair_methods.py": {
        "test_known_first_losses_are_those_of_equal_policies": 10,
        "test_the_first_loss_is_checked_as_sharply_as_rounding_allows": 0,
        "test_without_a_reference_there_is_no_pass_and_metrics_use_the_methods_own_reward": 2,
    },
    "tests/algorithms/test_policy_gradient.py": {
        "test_sampler_and_trainer_agree": 2,
        "test_the_first_ratio_is_one": 1,
    },
    "tests/algorithms/test_policy_gradient_meshes.py": {"test_every_mesh_takes_the_same_steps": 1},
    "tests/algorithms/test_policy_gradient_presets.py": {"test_every_loss_takes_a_step": 5},
    "tests/algorithms/test_policy_gradient_truths.py": {"test_a_prompt_moves_by_its_weight": 4},
    "tests/algorithms/test_reward_kinds.py": {"test_micro_batches_change_nothing": 2},
    "tests/algorithms/test_unpaired.py": {"test_micro_batches_change_nothing": 2},
    "tests/compat/test_language_recipes.py": {"test_micro_batches_join_to_the_batch": 4},
    "tests/compat/test_policy_recipes.py": {
        "test_masked_tokens_and_rows_weigh_nothing": 4,
        "test_micro_batches_are_one_batch": 5,
        "test_padding_changes_nothing_in_minillm": 0,
    },
    "tests/compat/test_preference_recipes.py": {"test_pure_under_jit_with_finite_gradients": 6},
    "tests/compat/test_recipes.py": {
        "test_every_option_reaches_a_block": 15,
        "test_micro_batches_are_one_batch_unless_rows_are_coupled": 8,
    },
    "tests/commands/test_kill.py": {"test_killed_runs_end_with_the_same_bits": 0},
    "tests/commands/test_open_weights.py": {
        "test_a_run_starts_from_the_weights_and_comes_back_as_a_folder": 0,
        "test_adapters_leave_merged_or_alone": 0,
        "test_import_and_export_return_the_same_bytes": 0,
    },
    "tests/conformance/test_conformance.py": {"test_recipe_agrees_with_the_reference": 25},
    "tests/evals/test_adapted.py": {"test_each_row_is_answered_by_its_adapter": 0},
    "tests/losses/test_loss_table.py": {
        "test_equals_second_implementation": 36,
        "test_jit_changes_nothing_and_content_does_not_recompile": 30,
        "test_mesh_changes_nothing": 30,
        "test_padding_amount_does_not_matter": 20,
    },
    "tests/models/adapters/test_adapt.py": {
        "test_adapters_of_a_bfloat16_base_stay_wide": 0,
        "test_cached_decode_equals_one_pass": 1,
        "test_dora_trains_direction_and_length_apart": 0,
        "test_experts_and_latents_take_lora_where_it_can_stand": 0,
        "test_it_starts_as_exactly_its_base_and_can_leave_it": 2,
        "test_latents_and_experts_do_what_their_merged_weights_do": 0,
    },
    "tests/models/adapters/test_dropout.py": {
        "test_methods_that_compare_two_passes_drop_out_in_one": 1
    },
    "tests/models/checkpoints/test_gguf_io.py": {"test_quantised": 5},
    "tests/models/families/test_dense_families.py": {
        "test_loading_on_a_mesh": 2,
        "test_logits_by_a_cache": 2,
        "test_logits_of_padded_batches": 3,
        "test_loss_and_gradients": 2,
    },
    "tests/models/families/test_export.py": {
        "test_a_model_made_here": 4,
        "test_written_as_it_was_read": 8,
    },
    "tests/models/families/test_heads.py": {"test_scores_at_the_last_token": 4},
    "tests/models/families/test_moe_families.py": {
        "test_cached_decoding": 1,
        "test_loading_onto_a_mesh": 1,
        "test_logits_of_a_prompt": 3,
        "test_logits_of_packed_rows": 1,
        "test_logits_of_padded_rows": 1,
        "test_the_loss_and_the_gradient_of_every_tensor": 1,
    },
    "tests/models/test_cache_rows.py": {
        "test_rows_are_taken_repeated_and_put_where_others_were": 1,
        "test_rows_written_at_their_own_places_are_those_written_side_by_side": 1,
    },
    "tests/models/test_flax_bridge.py": {
        "test_flax_models_are_trained_by_the_algorithms_as_they_are": 2,
        "test_sampling_without_a_cache_equals_teacher_forcing": 1,
        "test_weights_that_are_placed_keep_their_layout": 0,
    },
    "tests/models/test_flax_module.py": {
        "test_apply_is_ours_bit_for_bit_on_every_mesh": 1,
        "test_fresh_parameters_have_our_tree_and_laws": 1,
    },
    "tests/models/test_mla.py": {
        "test_a_model_with_both_is_the_same_on_every_mesh": 0,
        "test_equals_a_loop_over_pairs_of_tokens": 3,
    },
    "tests/models/test_model_meshes.py": {
        "test_every_mesh_gives_the_loss_and_gradient_of_one_device": 2
    },
    "tests/models/test_moe.py": {
        "test_equals_a_loop_over_tokens": 2,
        "test_every_mesh_gives_the_value_and_gradient_of_one_device": 2,
        "test_every_method_adds_the_router_losses_of_its_rows": 2,
        "test_router_losses_reach_the_objective_once_for_each_real_token": 0,
        "test_what_kernels_leave_behind_the_runs_reaches_nothing": 1,
    },
    "tests/planning/test_evaluation.py": {
        "test_a_base_under_adapters_is_there_once": 0,
        "test_a_loop_that_evaluates_keeps_what_it_compares_with": 0,
    },
    "tests/planning/test_plan.py": {"test_sampling_on_a_model_axis_of_its_own": 0},
    "tests/planning/test_plan_own_method.py": {"test_a_method_of_a_file_is_planned": 1},
    "tests/planning/test_roles.py": {
        "test_a_reward_model_of_another_size_is_planned_as_it_is": 0
    },
    "tests/rollouts/test_estimates.py": {
        "test_a_kl_in_the_reward_is_taken_once": 6,
        "test_rows_without_a_score_are_rows_that_are_not_there": 10,
        "test_shapes_are_known_before": 10,
    },
    "tests/rollouts/test_invariances.py": {
        "test_collecting_in_parts_changes_no_row": 1,
        "test_dead_groups_and_rows_without_a_score_are_not_there": 4,
        "test_micro_batches_change_nothing": 4,
        "test_micro_batches_change_nothing_in_a_transformer": 1,
        "test_packed_rows_train_a_transformer_as_rows_do": 1,
        "test_packed_rows_train_as_rows_do": 4,
        "test_permuted_prompts_permute_rows_and_advantages": 1,
        "test_the_same_for_estimators_and_a_transformer": 1,
    },
    "tests/runs/test_role_models.py": {
        "test_dpo_compares_with_a_reference_of_another_size": 0
    },
    "tests/sampling/test_chunked.py": {"test_chunks_draw_what_one_program_draws": 1},
    "tests/sampling/test_generate.py": {
        "test_experts_stay_in_parts_while_sampling": 1,
        "test_one_key_gives_the_same_samples_on_every_mesh": 1,
    },
    "tests/sampling/test_options.py": {
        "test_options_stay_with_their_rows_on_a_mesh": 1,
        "test_samples_of_a_prompt_are_those_of_its_repetitions": 1,
    },
    "tests/training/test_loop.py": {"test_nothing_compiles_after_the_second_step": 1},
    "tests/training/test_memory.py": {
        "test_dpo_lets_go_of_the_reference_once_its_log_probabilities_are_known": 0
    },
    "tests/training/test_optim.py": {"test_optimizer_state_is_laid_out_as_its_parameters": 2},
    "tests/data/test_hh_rlhf.py": {"test_bag_of_words_beats_chance_on_helpful": 0},
    "tests/test_online_rl_doc.py": {"test_the_experiment_of_the_guide_trains": 0},
    "tests/worlds/test_arithmetic.py": {"test_a_question_that_is_cut_is_refused": 0},
}  # fmt: skip


# Of the slow ones: so many of each are run by .ci/run, the others before a release (-m slow).
CI: Mapping[str, Mapping[str, int]] = {
    "tests/algorithms/test_meshes.py": {"test_three_steps_agree_on_every_mesh": 9},
    "tests/algorithms/test_pair_methods.py": {"test_micro_batches_change_no_gradient": 14},
    "tests/algorithms/test_adapted_methods.py": {"test_a_step_moves_the_adapters_alone": 10},
    "tests/compat/test_recipes.py": {
        "test_micro_batches_are_one_batch_unless_rows_are_coupled": 40,
    },
    "tests/models/test_flax_bridge.py": {
        "test_every_mesh_gives_the_losses_and_samples_of_one_device": 2,
    },
    "tests/models/test_flax_module.py": {
        "test_apply_is_ours_bit_for_bit_on_every_mesh": 5,
        "test_the_nnx_module_is_made_on_a_mesh": 2,
    },
    "tests/models/families/test_live.py": {"test_random_models_read_here": 11},
    "tests/models/families/test_dense_families.py": {"test_loss_and_gradients": 6},
}


def mark(items: Iterable[pytest.Item]) -> None:
    """Marks the cases that are not quick as slow, and of the slow ones those for a release."""
    items = list(items)
    quick = [item for item in items if item.get_closest_marker("slow") is None]
    _mark_beyond(QUICK, quick, "slow")
    slow = [item for item in items if item.get_closest_marker("slow") is not None]
    _mark_beyond(CI, slow, "release")


def _mark_beyond(
    table: Mapping[str, Mapping[str, int]], items: Iterable[pytest.Item], marker: str
) -> None:
    """Marks the cases of the table's tests but for so many of each, spread evenly."""
    cases: dict[tuple[str, str], list[pytest.Item]] = {}
    for item in items:
        file, name = item.nodeid.split("::")[0], getattr(item, "originalname", item.name)
        if name in table.get(file, {}):
            cases.setdefault((file, name), []).append(item)
    for (file, name), group in cases.items():
        count = min(table[file][name], len(group))
        kept = {len(group) * i // count for i in range(count)}
        for i, item in enumerate(group):
            if i not in kept:
                item.add_marker(getattr(pytest.mark, marker))
