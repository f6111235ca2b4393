"""Which cases of the dearest tests are quick: so many of each, spread evenly; the others are slow.

What all tests must prove is proved by the slow tier; the quick one shows in minutes that nothing
is plainly broken. A test that needs over 10 CPU seconds belongs here, or is slow as a whole.
"""

from collections.abc import Iterable, Mapping

import pytest

QUICK: Mapping[str, Mapping[str, int]] = {
    "tests/algorithms/test_adapted_meshes.py": {
        "test_a_step_keeps_the_layout_of_adapters_and_lowers_for_a_pod": 1,
        "test_rows_choose_their_adapters_on_a_mesh": 0,
        "test_three_steps_agree_on_a_mesh": 0,
    },
    "tests/algorithms/test_adapted_methods.py": {
        "test_a_step_moves_the_adapters_alone": 0,
        "test_dpo_lifts_the_chosen_over_a_reference_that_stays": 0,
    },
    "tests/algorithms/test_counted.py": {
        "test_prompts_never_reach_the_head": 0,
    },
    "tests/algorithms/test_distill.py": {
        "test_students_paid_by_the_teacher_come_closer": 0,
        "test_the_loss_is_that_of_whole_distributions": 1,
        "test_the_teacher_answers_the_other_rows": 0,
    },
    "tests/algorithms/test_group_dpo.py": {
        "test_one_group_is_dpo_bit_for_bit": 0,
    },
    "tests/algorithms/test_meshes.py": {
        "test_a_step_keeps_the_layout_of_its_state_and_lowers_for_a_pod": 1,
        "test_three_steps_agree_on_every_mesh": 0,
    },
    "tests/algorithms/test_methods.py": {
        "test_a_completion_without_eos_pays_the_penalty": 0,
        "test_a_dpo_step_lifts_the_chosen_and_lowers_the_rejected": 0,
        "test_a_reward_step_raises_the_margin_and_starts_from_the_policy": 0,
        "test_comparisons_of_several_answers_are_those_of_pairs": 0,
        "test_each_token_pays_its_own_kl": 0,
        "test_equal_and_extreme_rewards_give_finite_losses": 0,
        "test_ppo_takes_its_losses_from_a_preset": 0,
        "test_prompts_and_padding_get_no_gradient": 0,
        "test_the_adaptive_coefficient_moves_towards_its_target": 0,
        "test_the_first_update_finds_what_the_method_promises": 1,
        "test_the_last_reward_of_trl_comes_after_the_answer": 0,
        "test_the_score_lands_on_the_last_token_of_a_completion": 0,
        "test_the_trained_tree_shares_no_buffer_with_what_is_frozen": 0,
    },
    "tests/algorithms/test_pair_methods.py": {
        "test_a_pair_of_weight_2_moves_the_shift_as_two_pairs_do_and_micro_batches_do_not": 0,
        "test_known_first_losses_are_those_of_equal_policies": 10,
        "test_the_answer_to_imitate_is_the_one_that_the_table_names": 0,
        "test_the_first_loss_is_checked_as_sharply_as_rounding_allows": 0,
        "test_without_a_reference_there_is_no_pass_and_metrics_use_the_methods_own_reward": 1,
    },
    "tests/algorithms/test_planted_bugs.py": {
        "test_a_reference_at_another_temperature_stops_ppo": 0,
        "test_a_reference_of_other_weights_stops_ppo": 0,
        "test_a_sound_first_step_passes": 0,
        "test_a_value_is_of_the_tokens_before_it": 0,
    },
    "tests/algorithms/test_policy_gradient.py": {
        "test_sampler_and_trainer_agree": 0,
        "test_sampling_lags_exactly_one_step_behind": 0,
        "test_the_first_ratio_is_one": 0,
    },
    "tests/algorithms/test_policy_gradient_meshes.py": {
        "test_every_mesh_takes_the_same_steps": 0,
    },
    "tests/algorithms/test_policy_gradient_mutants.py": {
        "test_a_planted_bug_is_noticed": 1,
        "test_sound_code_passes": 1,
    },
    "tests/algorithms/test_policy_gradient_presets.py": {
        "test_a_transformer_takes_steps": 0,
        "test_every_loss_takes_a_step": 1,
    },
    "tests/algorithms/test_policy_gradient_truths.py": {
        "test_a_prompt_moves_by_its_weight": 0,
        "test_groups_that_are_dropped_change_the_objective": 0,
        "test_rloo_reaches_the_optimum_of_the_regularised_reward": 0,
    },
    "tests/algorithms/test_ppo_collect.py": {
        "test_parts_collect_the_same_experience": 0,
    },
    "tests/algorithms/test_reward_kinds.py": {
        "test_micro_batches_change_nothing": 0,
        "test_plackett_luce_by_hand": 0,
        "test_scores_and_labels_by_hand": 0,
        "test_steps_are_judged_at_their_places": 1,
        "test_the_first_loss_is_that_of_a_zero_head": 1,
    },
    "tests/algorithms/test_unpaired.py": {
        "test_kinds_weigh_alike_by_their_counts_unless_set": 0,
        "test_kto_by_hand": 0,
        "test_micro_batches_change_nothing": 0,
        "test_the_first_loss_is_known_and_a_wrong_reference_is_noticed": 0,
        "test_the_shift_of_bco_is_a_running_mean_of_all_batches": 0,
    },
    "tests/algorithms/test_votes.py": {
        "test_a_pair_of_three_votes_and_one_has_the_gradient_of_four_pairs": 0,
        "test_every_comparison_of_a_row_has_the_rows_weight": 0,
        "test_micro_batches_of_uneven_weight_change_no_gradient": 0,
    },
    "tests/commands/test_kill.py": {
        "test_killed_runs_end_with_the_same_bits": 0,
    },
    "tests/commands/test_open_weights.py": {
        "test_a_run_starts_from_the_weights_and_comes_back_as_a_folder": 0,
        "test_adapters_leave_merged_or_alone": 0,
        "test_bad_commands_are_refused_in_one_line": 0,
        "test_import_and_export_return_the_same_bytes": 0,
        "test_open_weights_answer_a_prompt": 0,
    },
    "tests/commands/test_run.py": {
        "test_a_changed_lifecycle_is_refused": 0,
        "test_a_rerun_is_quick_and_changes_nothing": 0,
        "test_a_start_of_the_wrong_kind": 0,
        "test_collect_asks_two_runs_the_same_prompts": 0,
        "test_evaluate": 0,
        "test_every_stage_has_one_row_a_step": 0,
        "test_learning_happens_even_here": 0,
        "test_report_is_made_again": 0,
        "test_sample_follows_its_seed": 0,
        "test_the_lifecycle_leaves_a_report_and_numbers": 0,
        "test_train_refuses_another_configuration_and_takes_harmless_changes": 0,
        "test_verify_says_which_checkpoint_is_bad": 0,
    },
    "tests/compat/test_language_recipes.py": {
        "test_micro_batches_join_to_the_batch": 2,
    },
    "tests/compat/test_policy_recipes.py": {
        "test_masked_tokens_and_rows_weigh_nothing": 1,
        "test_micro_batches_are_one_batch": 5,
        "test_padding_changes_nothing_in_minillm": 0,
    },
    "tests/compat/test_preference_recipes.py": {
        "test_micro_batches_join_to_the_batch": 14,
        "test_pure_under_jit_with_finite_gradients": 6,
    },
    "tests/compat/test_recipes.py": {
        "test_every_option_reaches_a_block": 7,
        "test_micro_batches_are_one_batch_unless_rows_are_coupled": 1,
        "test_reads_are_what_is_read": 16,
        "test_rows_of_padding_weigh_nothing": 5,
        "test_rows_that_arrays_or_options_couple": 1,
        "test_what_is_needed_suffices_and_nothing_of_it_can_be_left_out": 27,
    },
    "tests/compat/test_votes.py": {
        "test_three_votes_against_one_are_one_pair": 1,
    },
    "tests/conformance/test_conformance.py": {
        "test_recipe_agrees_with_the_reference": 7,
    },
    "tests/conformance/test_updates.py": {
        "test_a_planted_bug_is_noticed": 0,
        "test_three_updates_give_the_parameters_of_the_reference": 2,
    },
    "tests/data/containers/test_containers.py": {
        "test_memory_is_flat": 0,
    },
    "tests/data/test_hh_rlhf.py": {
        "test_bag_of_words_beats_chance_on_helpful": 0,
        "test_the_whole_train_set_becomes_a_table": 0,
    },
    "tests/data/test_mixture.py": {
        "test_a_run_reads_a_mixture_and_its_record_comes_back": 0,
    },
    "tests/data/test_prepare.py": {
        "test_many_rows_are_told_apart_at_flat_memory": 0,
    },
    "tests/data/test_prepared_files.py": {
        "test_every_layout_gives_the_tables_made_in_memory": 8,
    },
    "tests/evals/test_adapted.py": {
        "test_each_row_is_answered_by_its_adapter": 0,
        "test_what_cannot_be_used_at_once_is_refused": 0,
    },
    "tests/feedback/test_aggregate.py": {
        "test_dawid_skene_labels_without_knowing_the_raters": 0,
        "test_intervals_of_accuracies_hold_the_truth": 0,
    },
    "tests/feedback/test_docs.py": {
        "test_its_blocks_run_one_after_the_other": 0,
    },
    "tests/feedback/test_imports.py": {
        "test_without_its_packages_a_command_says_what_to_install": 1,
    },
    "tests/feedback/test_raters.py": {
        "test_choices_have_their_probabilities": 2,
        "test_rankings_are_plackett_luce": 0,
    },
    "tests/feedback/test_report.py": {
        "test_planted_errors_are_estimated": 0,
        "test_the_command_prints_lines_or_json": 0,
    },
    "tests/feedback/test_verdicts.py": {
        "test_planted_errors_of_a_judge_are_reported": 0,
    },
    "tests/losses/test_logprobs.py": {
        "test_a_vocabulary_spread_over_devices_changes_nothing": 1,
        "test_counted_tokens_alone_give_the_same": 3,
        "test_statistics_and_gradients_equal_naive_float64": 3,
    },
    "tests/losses/test_loss_by_hand.py": {
        "test_detached_arguments_get_no_gradient": 0,
    },
    "tests/losses/test_loss_parts.py": {
        "test_distillation_on_top_k": 0,
    },
    "tests/losses/test_loss_table.py": {
        "test_equals_second_implementation": 15,
        "test_gradient_is_that_of_the_second_implementation": 18,
        "test_jit_changes_nothing_and_content_does_not_recompile": 13,
        "test_mesh_changes_nothing": 30,
        "test_padding_amount_does_not_matter": 20,
    },
    "tests/losses/test_loss_truths.py": {
        "test_bradley_terry_at_the_fisher_bound": 0,
        "test_hinge_bco_and_divergences_keep_the_order": 0,
    },
    "tests/losses/test_tiled_divergence.py": {
        "test_a_few_entries_give_a_lower_bound_of_the_divergence": 0,
        "test_a_vocabulary_spread_over_devices_changes_nothing": 0,
        "test_bfloat16_states_sum_in_fp32_and_keep_their_dtype_in_gradients": 0,
        "test_entries_of_a_vocabulary_in_parts": 0,
        "test_extreme_logits_stay_finite": 0,
        "test_it_is_the_divergence_of_log_probabilities": 0,
        "test_memory_is_flat_in_the_length_of_rows": 0,
        "test_the_rest_keeps_its_digits_where_a_few_tokens_hold_everything": 0,
        "test_top_tokens_and_the_log_probabilities_of_them_and_the_rest": 0,
        "test_values_and_gradients_equal_naive_float64": 2,
    },
    "tests/models/test_branches.py": {
        "test_on_a_mesh": 0,
        "test_states_and_gradients_are_those_of_whole_rows": 2,
        "test_tiles_of_a_trunk_are_not_passed_over": 1,
    },
    "tests/models/adapters/test_adapt.py": {
        "test_a_prefix_is_seen_by_every_query": 1,
        "test_adapters_of_a_bfloat16_base_stay_wide": 0,
        "test_cached_decode_equals_one_pass": 0,
        "test_dora_trains_direction_and_length_apart": 0,
        "test_experts_and_latents_take_lora_where_it_can_stand": 0,
        "test_it_starts_as_exactly_its_base_and_can_leave_it": 1,
        "test_latents_and_experts_do_what_their_merged_weights_do": 0,
        "test_the_product_is_that_of_the_papers_matrix": 1,
    },
    "tests/models/adapters/test_dropout.py": {
        "test_methods_that_compare_two_passes_drop_out_in_one": 0,
        "test_rows_drop_out_differently": 0,
    },
    "tests/models/adapters/test_many.py": {
        "test_sampling_serves_each_row_its_own_adapter": 0,
        "test_targets_may_differ": 0,
    },
    "tests/models/adapters/test_merge.py": {
        "test_merged_weights_do_the_same_and_go_back_to_the_same_bits": 2,
    },
    "tests/models/adapters/test_peft_format.py": {
        "test_latents_and_experts_are_pefts": 0,
        "test_logits_are_pefts": 1,
    },
    "tests/models/adapters/test_quantised_runs.py": {
        "test_a_golden_of_peft_is_read_over_codes": 0,
    },
    "tests/models/checkpoints/test_gguf_io.py": {
        "test_a_real_model": 0,
        "test_quantised": 5,
    },
    "tests/models/checkpoints/test_peak_memory.py": {
        "test_peak_memory_is_one_device_slice": 0,
    },
    "tests/models/checkpoints/test_sharded.py": {
        "test_round_trip_is_bit_equal": 4,
    },
    "tests/models/families/test_dense_families.py": {
        "test_loading_on_a_mesh": 2,
        "test_logits_by_a_cache": 1,
        "test_logits_of_packed_rows": 2,
        "test_logits_of_padded_batches": 1,
        "test_loss_and_gradients": 1,
    },
    "tests/models/families/test_export.py": {
        "test_a_model_made_here": 1,
        "test_described_anew": 10,
        "test_written_as_it_was_read": 4,
    },
    "tests/models/families/test_heads.py": {
        "test_scores_at_the_last_token": 1,
    },
    "tests/models/families/test_moe_families.py": {
        "test_cached_decoding": 1,
        "test_loading_onto_a_mesh": 1,
        "test_logits_of_a_prompt": 1,
        "test_logits_of_packed_rows": 1,
        "test_logits_of_padded_rows": 1,
        "test_the_loss_and_the_gradient_of_every_tensor": 0,
    },
    "tests/models/test_attention_kernels.py": {
        "test_splash_equals_the_written_out_scores": 0,
    },
    "tests/models/test_cache_rows.py": {
        "test_rows_are_taken_repeated_and_put_where_others_were": 1,
        "test_tokens_that_are_kept_are_put_as_rows_are": 0,
        "test_rows_written_at_their_own_places_are_those_written_side_by_side": 0,
        "test_what_is_not_read_changes_nothing": 0,
    },
    "tests/models/test_flax_bridge.py": {
        "test_a_cache_of_the_models_own_draws_the_same": 0,
        "test_flax_models_are_trained_by_the_algorithms_as_they_are": 1,
        "test_log_probabilities_and_gradients_are_those_of_the_module_itself": 0,
        "test_packing_and_padding_are_right_where_the_model_is_told_and_nan_where_not": 0,
        "test_sampling_without_a_cache_equals_teacher_forcing": 0,
        "test_weights_that_are_placed_keep_their_layout": 0,
    },
    "tests/models/test_flax_module.py": {
        "test_apply_is_ours_bit_for_bit_on_every_mesh": 1,
        "test_fresh_parameters_have_our_tree_and_laws": 0,
        "test_gradients_are_ours_bit_for_bit": 0,
        "test_out_and_back_through_the_bridge_is_ours": 0,
        "test_the_module_is_hashable_and_keeps_the_config_it_was_made_of": 0,
        "test_the_tree_is_the_same_both_ways": 1,
    },
    "tests/models/test_delta_rule.py": {
        "test_a_strong_decay_rounds_away_nothing_behind_it": 0,
        "test_chunks_and_their_gradients_are_those_of_the_recurrence": 1,
        "test_keys_that_are_all_alike_are_no_harder": 0,
        "test_the_convolution_sees_the_last_real_tokens_of_its_segment": 1,
    },
    "tests/models/test_gated_delta.py": {
        "test_a_segment_that_begins_behind_a_cache_finds_an_empty_state": 0,
        "test_adapters_of_its_maps_start_as_the_base_and_learn": 0,
        "test_packing_and_padding_change_nothing": 0,
        "test_rows_of_caches_take_their_states_along": 0,
    },
    "tests/models/test_lent_layers.py": {
        "test_packed_rows_equal_separate_ones": 0,
        "test_rows_of_caches_take_their_wide_keys_along": 0,
        "test_weights_prepared_for_decoding_are_the_same_model": 0,
    },
    "tests/models/test_mla.py": {
        "test_a_model_with_both_is_the_same_on_every_mesh": 0,
        "test_equals_a_loop_over_pairs_of_tokens": 0,
        "test_gradients_lower_for_accelerators_on_an_abstract_mesh": 1,
        "test_packing_and_padding_change_nothing": 0,
        "test_prefill_and_decoding_equal_the_full_forward": 1,
        "test_yarn_reaches_both_the_angles_and_the_scores": 0,
    },
    "tests/models/test_model_meshes.py": {
        "test_every_mesh_gives_the_loss_and_gradient_of_one_device": 1,
        "test_parts_of_families_on_meshes": 0,
    },
    "tests/models/test_moe.py": {
        "test_cached_decoding_and_packing_equal_the_full_forward": 0,
        "test_equals_a_loop_over_tokens": 2,
        "test_every_mesh_gives_the_value_and_gradient_of_one_device": 0,
        "test_every_method_adds_the_router_losses_of_its_rows": 0,
        "test_half_precision_keeps_the_router_in_fp32": 0,
        "test_router_losses_equal_the_loop": 0,
        "test_router_losses_reach_the_objective_once_for_each_real_token": 0,
        "test_the_router_losses_weight_is_that_of_the_whole": 0,
        "test_what_kernels_leave_behind_the_runs_reaches_nothing": 0,
    },
    "tests/models/test_short_conv.py": {
        "test_rows_of_caches_take_their_inputs_along": 0,
    },
    "tests/models/test_tiled_attention.py": {
        "test_models_equal_those_with_written_out_scores": 0,
        "test_values_and_gradients_are_those_of_float64": 4,
    },
    "tests/models/test_token_cache.py": {
        "test_a_step_leaves_the_cache_where_it_was": 0,
        "test_real_tokens_go_behind_those_that_are_there_wherever_padding_stands": 0,
    },
    "tests/models/test_transformer.py": {
        "test_equals_the_second_implementation_for_other_heads": 1,
        "test_memory_for_time_changes_no_value_and_no_gradient": 1,
    },
    "tests/parallel/test_parallel.py": {
        "test_verbs_compute_the_same_and_place_the_result": 2,
    },
    "tests/planning/test_analytic.py": {
        "test_adapters_are_counted_and_the_optimizer_holds_them": 0,
        "test_every_program_is_within_three_percent": 0,
    },
    "tests/planning/test_collected.py": {
        "test_a_prompt_is_read_once_for_its_group": 0,
        "test_episodes_are_planned_by_their_longest_turn": 0,
        "test_groups_that_are_kept_are_counted": 0,
    },
    "tests/planning/test_evaluation.py": {
        "test_a_base_under_adapters_is_there_once": 0,
        "test_a_loop_that_evaluates_keeps_what_it_compares_with": 0,
    },
    "tests/planning/test_pinned.py": {
        "test_an_update_communicates_as_recorded": 0,
    },
    "tests/planning/test_plan.py": {
        "test_adapters_are_all_that_the_optimizer_holds": 0,
        "test_evaluation_is_planned_apart_from_the_run": 0,
        "test_every_field_of_the_json_is_documented": 0,
        "test_every_program_of_a_method_is_planned": 0,
        "test_flops_are_within_three_percent_of_the_formula": 0,
        "test_options_of_the_chip_are_told": 0,
        "test_parameters_and_optimizer_are_the_formulas_bytes": 0,
        "test_sampling_on_a_model_axis_of_its_own": 0,
        "test_the_command_line": 0,
        "test_too_much_is_a_verdict": 0,
    },
    "tests/planning/test_plan_own_method.py": {
        "test_a_method_of_a_file_is_planned": 0,
    },
    "tests/planning/test_roles.py": {
        "test_a_plan_begins_with_the_shapes_of_the_run": 0,
        "test_a_reward_model_of_another_size_is_planned_as_it_is": 0,
    },
    "tests/redteam/test_gcg.py": {
        "test_losses_behind_a_shared_prefix_are_those_of_whole_rows": 0,
    },
    "tests/redteam/test_report.py": {
        "test_best_of_n_follows_the_beta_law": 0,
    },
    "tests/redteam/test_target.py": {
        "test_a_suffix_comes_back_as_its_ids_and_the_search_pays_its_tokens": 0,
    },
    "tests/reporting/test_report.py": {
        "test_the_caption_says_what_the_lines_bound": 1,
    },
    "tests/rewards/test_option_judge.py": {
        "test_log_probabilities_are_the_models": 3,
    },
    "tests/rewards/test_pool.py": {
        "test_it_survives": 1,
    },
    "tests/rollouts/test_chain_commands.py": {
        "test_a_run_leaves_its_numbers_and_samples": 0,
        "test_rules_of_real_texts_reach_the_methods": 0,
    },
    "tests/rollouts/test_chain_kill.py": {
        "test_a_killed_run_ends_with_the_same_bits": 0,
    },
    "tests/rollouts/test_episodes.py": {
        "test_a_mask_on_observations_is_found": 0,
        "test_an_observation_without_room_cuts_its_row": 0,
        "test_one_turn_is_the_ordinary_draw": 0,
        "test_rows_are_what_was_exchanged": 0,
        "test_the_same_key_plays_the_same_episodes": 0,
        "test_the_trainer_reads_the_row_as_the_sampler_did": 0,
    },
    "tests/rollouts/test_estimates.py": {
        "test_a_kl_in_the_reward_is_taken_once": 6,
        "test_rows_without_a_score_are_rows_that_are_not_there": 3,
        "test_shapes_are_known_before": 10,
    },
    "tests/rollouts/test_invariances.py": {
        "test_collecting_in_parts_changes_no_row": 1,
        "test_dead_groups_and_rows_without_a_score_are_not_there": 0,
        "test_micro_batches_change_nothing": 1,
        "test_micro_batches_change_nothing_in_a_transformer": 0,
        "test_packed_rows_train_a_transformer_as_rows_do": 0,
        "test_packed_rows_train_as_rows_do": 1,
        "test_permuted_prompts_permute_rows_and_advantages": 0,
        "test_the_same_for_estimators_and_a_transformer": 0,
    },
    "tests/rollouts/test_pack.py": {
        "test_on_meshes_and_in_micro_batches": 0,
        "test_packed_is_unpacked": 0,
    },
    "tests/rollouts/test_refusals.py": {
        "test_a_run_that_stops_says_why_and_leaves_with_1": 0,
        "test_what_the_data_do_not_fit": 2,
    },
    "tests/rollouts/test_replay.py": {
        "test_a_step_without_signal_trains_on_stored_groups": 0,
    },
    "tests/runs/test_golden.py": {
        "test_evaluate_gives_the_recorded_numbers": 2,
        "test_export_writes_a_model_folder": 3,
        "test_sample_answers_prompts_of_the_run": 1,
        "test_training_goes_on": 0,
    },
    "tests/runs/test_prepared.py": {
        "test_a_run_has_the_bits_of_one_in_memory": 0,
        "test_a_run_is_evaluated_and_sampled_from_its_prepared_tables": 0,
        "test_reference_columns_are_shared_by_runs_and_restarts": 0,
    },
    "tests/runs/test_role_models.py": {
        "test_a_reference_of_the_policys_size_may_be_another_run": 0,
        "test_a_role_without_a_model_is_refused": 0,
        "test_dpo_compares_with_a_reference_of_another_size": 0,
    },
    "tests/runs/test_role_tokenizers.py": {
        "test_a_reward_model_with_another_tokenizer_reads_text": 0,
        "test_answers_are_laid_out_anew_ended_or_cut": 0,
        "test_networks_that_read_tokens_are_refused_by_the_first_one_that_differs": 0,
    },
    "tests/runs/test_role_vocabulary.py": {
        "test_a_network_of_another_vocabulary_is_refused": 0,
    },
    "tests/sampling/test_chunked.py": {
        "test_chunks_draw_what_one_program_draws": 0,
        "test_rows_in_another_order_are_the_same_rows": 0,
        "test_the_first_call_compiles_as_many_programs_as_announced_and_the_others_none": 0,
    },
    "tests/sampling/test_draws.py": {
        "test_a_row_draws_the_same_wherever_it_stands_and_beside_whom": 1,
        "test_draws_of_a_shared_vocabulary_are_those_of_one_device": 1,
    },
    "tests/sampling/test_generate.py": {
        "test_experts_stay_in_parts_while_sampling": 0,
        "test_frequencies_and_log_probabilities_of_two_tokens_match_the_law": 1,
        "test_one_key_gives_the_same_samples_on_every_mesh": 1,
    },
    "tests/sampling/test_law.py": {
        "test_completions_and_lengths_are_as_frequent_as_they_are_likely": 0,
    },
    "tests/sampling/test_options.py": {
        "test_a_cache_that_is_not_ours_is_filled_for_each": 0,
        "test_a_row_of_temperature_0_is_greedy": 0,
        "test_a_seed_of_its_own_makes_a_row_that_of_a_call_with_this_key": 0,
        "test_options_stay_with_their_rows_on_a_mesh": 1,
        "test_rows_end_at_any_of_several_ids": 0,
        "test_samples_of_a_prompt_are_those_of_its_repetitions": 0,
    },
    "tests/sampling/test_transforms.py": {
        "test_options_of_rows_are_those_of_configurations": 7,
    },
    "tests/serving/test_held.py": {
        "test_no_token_of_a_flagged_window_is_sent_in_ten_thousand_streams": 0,
    },
    "tests/serving/test_http.py": {
        "test_a_chat_is_what_the_engine_draws": 0,
    },
    "tests/serving/test_serve_command.py": {
        "test_bad_options_are_one_line": 10,
    },
    "tests/sweeps/test_judged.py": {
        "test_the_false_alarm_rate_is_the_stated_one": 0,
    },
    "tests/test_architecture.py": {
        "test_imports_stay_light": 3,
    },
    "tests/test_experiments.py": {
        "test_full_size_lowers_on_its_own_mesh": 1,
    },
    "tests/test_online_rl_doc.py": {
        "test_the_experiment_of_the_guide_trains": 0,
    },
    "tests/text/test_jinja_template.py": {
        "test_limits_hold_and_the_next_conversation_works": 2,
        "test_smollm2s_own_template_equals_the_familys": 0,
    },
    "tests/training/test_checkpoint.py": {
        "test_any_harmed_file_leaves_a_right_state": 2,
        "test_round_trip_on_every_mesh": 1,
    },
    "tests/training/test_columns.py": {
        "test_what_changed_never_meets_old_columns": 2,
    },
    "tests/training/test_loop.py": {
        "test_a_reward_model_stops_where_its_head_is_not_zero": 0,
        "test_dpo_stops_where_policy_and_reference_differ": 0,
        "test_nothing_compiles_after_the_second_step": 1,
    },
    "tests/training/test_memory.py": {
        "test_dpo_lets_go_of_the_reference_once_its_log_probabilities_are_known": 0,
    },
    "tests/training/test_optim.py": {
        "test_one_network_is_clipped_on_its_global_norm": 0,
        "test_optimizer_state_is_laid_out_as_its_parameters": 1,
    },
    "tests/training/test_steps.py": {
        "test_a_run_in_a_folder_is_the_same_bit_for_bit": 0,
        "test_any_optax_chain_drives_it": 3,
    },
    "tests/training/test_update.py": {
        "test_micro_batches_of_a_transformer": 0,
        "test_the_loop_that_finds_weights_runs_no_forward_pass": 0,
    },
    "tests/worlds/test_arithmetic.py": {
        "test_a_question_that_is_cut_is_refused": 0,
    },
}


# Of the slow ones: so many of each are run by .ci/run (1 of those not named), the others before a
# release (-m slow).
CI: Mapping[str, Mapping[str, int]] = {
    "tests/algorithms/test_adapted_meshes.py": {
        "test_a_step_keeps_the_layout_of_adapters_and_lowers_for_a_pod": 2,
        "test_three_steps_agree_on_a_mesh": 3,
    },
    "tests/algorithms/test_adapted_methods.py": {
        "test_a_step_moves_the_adapters_alone": 2,
        "test_dpo_lifts_the_chosen_over_a_reference_that_stays": 2,
    },
    "tests/algorithms/test_distill.py": {
        "test_a_paused_run_ends_with_the_same_bits": 2,
        "test_meshes_take_the_same_steps": 2,
    },
    "tests/algorithms/test_meshes.py": {
        "test_three_steps_agree_on_every_mesh": 2,
    },
    "tests/algorithms/test_methods.py": {
        "test_the_first_update_finds_what_the_method_promises": 2,
    },
    "tests/algorithms/test_online.py": {
        "test_a_mesh_and_micro_batches_take_the_same_steps": 1,
        "test_the_reward_that_orders_pairs_rises": 1,
    },
    "tests/algorithms/test_pair_methods.py": {
        "test_known_first_losses_are_those_of_equal_policies": 4,
        "test_micro_batches_change_no_gradient": 3,
    },
    "tests/algorithms/test_policy_gradient_mutants.py": {
        "test_a_planted_bug_is_noticed": 4,
        "test_sound_code_passes": 2,
    },
    "tests/algorithms/test_reward_kinds.py": {
        "test_micro_batches_change_nothing": 2,
    },
    "tests/algorithms/test_unpaired.py": {
        "test_micro_batches_change_nothing": 2,
    },
    "tests/compat/test_language_recipes.py": {
        "test_micro_batches_join_to_the_batch": 4,
    },
    "tests/compat/test_policy_recipes.py": {
        "test_masked_tokens_and_rows_weigh_nothing": 4,
        "test_micro_batches_are_one_batch": 4,
    },
    "tests/compat/test_preference_recipes.py": {
        "test_first_loss_where_policy_and_reference_agree": 2,
        "test_formula_and_echo_name_every_option": 2,
        "test_masked_pairs_and_answers_are_as_if_absent": 2,
        "test_micro_batches_join_to_the_batch": 2,
        "test_missing_arrays_are_named": 2,
        "test_pure_under_jit_with_finite_gradients": 2,
        "test_unknown_options_are_named": 2,
    },
    "tests/compat/test_recipes.py": {
        "test_every_option_reaches_a_block": 8,
        "test_micro_batches_are_one_batch_unless_rows_are_coupled": 3,
        "test_reads_are_what_is_read": 6,
        "test_weights_are_of_masks_alone": 4,
        "test_what_is_needed_suffices_and_nothing_of_it_can_be_left_out": 6,
    },
    "tests/compat/test_votes.py": {
        "test_three_votes_against_one_are_one_pair": 2,
    },
    "tests/conformance/test_conformance.py": {
        "test_recipe_agrees_with_the_reference": 30,
    },
    "tests/conformance/test_online_updates.py": {
        "test_a_planted_bug_is_noticed": 1,
        "test_three_updates_give_the_parameters_of_the_reference": 2,
    },
    "tests/conformance/test_updates.py": {
        "test_a_planted_bug_is_noticed": 1,
        "test_three_updates_give_the_parameters_of_the_reference": 6,
    },
    "tests/evals/test_adapted.py": {
        "test_what_cannot_be_used_at_once_is_refused": 3,
    },
    "tests/losses/test_loss_table.py": {
        "test_equals_second_implementation": 4,
        "test_jit_changes_nothing_and_content_does_not_recompile": 4,
        "test_mesh_changes_nothing": 4,
        "test_padding_amount_does_not_matter": 3,
    },
    "tests/losses/test_tiled_divergence.py": {
        "test_a_vocabulary_spread_over_devices_changes_nothing": 1,
        "test_extreme_logits_stay_finite": 1,
        "test_values_and_gradients_equal_naive_float64": 2,
    },
    "tests/models/adapters/test_adapt.py": {
        "test_cached_decode_equals_one_pass": 2,
        "test_it_starts_as_exactly_its_base_and_can_leave_it": 2,
        "test_latents_and_experts_do_what_their_merged_weights_do": 2,
    },
    "tests/models/families/test_dense_families.py": {
        "test_loading_on_a_mesh": 2,
        "test_logits_by_a_cache": 2,
        "test_logits_of_packed_rows": 2,
        "test_logits_of_padded_batches": 2,
        "test_loss_and_gradients": 3,
    },
    "tests/models/families/test_export.py": {
        "test_a_model_made_here": 2,
        "test_described_anew": 2,
        "test_written_as_it_was_read": 2,
    },
    "tests/models/families/test_heads.py": {
        "test_scores_at_the_last_token": 2,
    },
    "tests/models/families/test_live.py": {
        "test_models_made_here": 2,
        "test_random_models_read_here": 4,
        "test_random_models_read_there_again": 4,
    },
    "tests/models/families/test_moe_families.py": {
        "test_a_config_and_its_description_are_inverse": 2,
        "test_cached_decoding": 2,
        "test_logits_of_a_prompt": 2,
        "test_logits_of_packed_rows": 2,
        "test_logits_of_padded_rows": 2,
        "test_the_loss_and_the_gradient_of_every_tensor": 2,
        "test_writing_gives_the_same_bytes": 2,
    },
    "tests/models/test_flax_bridge.py": {
        "test_a_cache_of_the_models_own_on_a_mesh": 2,
        "test_every_mesh_gives_the_losses_and_samples_of_one_device": 2,
        "test_flax_models_are_trained_by_the_algorithms_as_they_are": 2,
    },
    "tests/models/test_flax_module.py": {
        "test_apply_is_ours_bit_for_bit_on_every_mesh": 2,
        "test_fresh_parameters_have_our_tree_and_laws": 2,
        "test_the_nnx_module_is_made_on_a_mesh": 2,
    },
    "tests/models/test_mla.py": {
        "test_a_model_with_both_is_the_same_on_every_mesh": 2,
        "test_equals_a_loop_over_pairs_of_tokens": 3,
    },
    "tests/models/test_mixture.py": {
        "test_samples_with_two_caches_are_of_the_law_that_scoring_finds": 1,
    },
    "tests/models/test_model_meshes.py": {
        "test_every_mesh_gives_the_loss_and_gradient_of_one_device": 2,
    },
    "tests/models/test_moe.py": {
        "test_equals_a_loop_over_tokens": 2,
        "test_every_mesh_gives_the_value_and_gradient_of_one_device": 3,
        "test_every_method_adds_the_router_losses_of_its_rows": 2,
    },
    "tests/planning/test_analytic.py": {
        "test_every_program_is_within_three_percent": 4,
    },
    "tests/planning/test_pinned.py": {
        "test_an_update_communicates_as_recorded": 2,
    },
    "tests/planning/test_plan.py": {
        "test_argument_bytes_are_those_of_a_real_run": 1,
        "test_evaluation_is_planned_apart_from_the_run": 2,
        "test_flops_are_within_three_percent_of_the_formula": 2,
    },
    "tests/planning/test_roles.py": {
        "test_a_plan_begins_with_the_shapes_of_the_run": 3,
    },
    "tests/planning/test_taught.py": {
        "test_a_plan_has_the_programs_of_the_run": 2,
    },
    "tests/redteam/test_mending.py": {
        "test_a_planted_policy_is_found_out_and_mended": 0,
    },
    "tests/rollouts/test_invariances.py": {
        "test_dead_groups_and_rows_without_a_score_are_not_there": 3,
        "test_micro_batches_change_nothing": 4,
        "test_packed_rows_train_as_rows_do": 3,
    },
    "tests/runs/test_role_models.py": {
        "test_every_network_of_ppo_may_be_another": 2,
    },
    "tests/runs/test_role_tokenizers.py": {
        "test_networks_that_read_tokens_are_refused_by_the_first_one_that_differs": 1,
    },
    "tests/runs/test_teachers.py": {
        "test_the_command_refuses_in_a_line_and_writes_nothing": 1,
    },
    "tests/sampling/test_generate.py": {
        "test_one_key_gives_the_same_samples_on_every_mesh": 2,
    },
    "tests/training/test_evaluators_in_loop.py": {
        "test_a_killed_run_ends_with_the_same_best": 2,
    },
    "tests/training/test_loop.py": {
        "test_nothing_compiles_after_the_second_step": 2,
    },
    "tests/training/test_steps.py": {
        "test_a_run_in_a_folder_is_the_same_bit_for_bit": 2,
    },
    "tests/web/test_serve.py": {
        "test_what_was_acknowledged_survives_kill_9": 0,
    },
}


def mark(items: Iterable[pytest.Item]) -> None:
    """Marks the cases that are not quick as slow, and of the slow ones those for a release."""
    items = list(items)
    quick = [item for item in items if item.get_closest_marker("slow") is None]
    _mark_beyond(QUICK, quick, "slow")
    slow = [item for item in items if item.get_closest_marker("slow") is not None]
    _mark_beyond(CI, slow, "release", otherwise=1)


def _mark_beyond(
    table: Mapping[str, Mapping[str, int]],
    items: Iterable[pytest.Item],
    marker: str,
    otherwise: int | None = None,
) -> None:
    """Marks the cases of the table's tests but for so many of each, spread evenly.

    otherwise: so many of tests that are not in the table; None leaves them all.
    """
    cases: dict[tuple[str, str], list[pytest.Item]] = {}
    for item in items:
        file, name = item.nodeid.split("::")[0], getattr(item, "originalname", item.name)
        if otherwise is not None or name in table.get(file, {}):
            cases.setdefault((file, name), []).append(item)
    for (file, name), group in cases.items():
        count = min(table.get(file, {}).get(name, otherwise or 0), len(group))
        kept = {len(group) * i // count for i in range(count)}
        for i, item in enumerate(group):
            if i not in kept:
                item.add_marker(getattr(pytest.mark, marker))
