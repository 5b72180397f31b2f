"""Known ways in which queues lose or repeat work, and the tests that keep each of them out.

Ids are rows of the project's own list of defects found in an earlier queue: `D` of behaviour, `R` of losses.
"""

from __future__ import annotations

KEPT_OUT: dict[str, tuple[str, ...]] = {
    "D-01 R26 results are not stored": ("test_ack_completes_and_keeps_the_result",),
    "D-02 fields written in one place and read from another": (
        "test_every_field_of_a_job_comes_back",
        "test_each_status_shows_what_belongs_to_it",
        "test_errors_stay_when_the_job_succeeds_in_the_end",
    ),
    "D-03 R3 last in, first out": (
        "test_jobs_come_out_in_the_order_in_which_they_went_in",
        "test_a_steady_stream_never_starves_the_oldest",
    ),
    "D-04 a job with priority never wakes an idle worker": ("test_an_enqueue_with_priority_wakes_too",),
    "D-10 R11 a failure promotes foreign jobs early": ("test_a_retry_of_one_job_brings_no_other_job_early",),
    "D-11 D-31 no back-off": ("test_retry_schedules_the_job_after_its_delay",),
    "D-12 R20 run_at is ignored by enqueue": ("test_a_job_with_run_at_ahead_is_scheduled",),
    "D-13 D-20 D-80 R6 long jobs run twice": (
        "test_renewal_extends_the_lease",
        "test_a_late_ack_counts_as_long_as_nobody_reaped",
    ),
    "D-14 R8 a late ack after recovery": ("test_a_late_ack_of_a_reaped_job_changes_nothing",),
    "D-15 R7 a job that kills its worker loops for ever": (
        "test_a_job_that_kills_its_workers_ends_dead",
        "test_a_loss_uses_up_a_retry",
    ),
    "D-16 R4 jobs of a dead worker stay active": ("test_the_first_loss_brings_a_job_back_to_its_old_place",),
    "D-17 R9 nack without a token": (
        "test_a_wrong_token_changes_nothing",
        "test_a_job_that_was_never_delivered_cannot_be_settled",
    ),
    "D-18 a second ack counts": (
        "test_a_second_ack_is_told_that_it_is_settled_already",
        "test_the_same_token_settles_once_whatever_it_says_the_second_time",
    ),
    "D-19 R12 unstarted jobs are stranded on stop": (
        "test_closing_gives_the_jobs_back_untouched",
        "test_release_gives_the_attempt_back_but_not_the_fence",
    ),
    "D-23 R2 popped but not active": ("test_a_repeated_settle_brings_its_verdicts_and_the_deliveries_still_held",),
    "D-25 a job that has ended already is waited for in vain": ("test_the_end_of_a_job_wakes_whoever_waits_for_it",),
    "D-28 R10 a failed ack runs the job again": ("test_effects_of_a_repeated_settle_count_once",),
    "D-33 D-34 R15 locks without an owner": ("test_only_the_holder_lets_go", "test_renewing_keeps_the_fence"),
    "D-35 R14 a schedule ends with its job": ("test_a_fire_enqueues_its_jobs_and_sets_when_it_is_next_due",),
    "D-36 a schedule fires twice": (
        "test_a_nominal_time_fires_once",
        "test_putting_a_schedule_is_compare_and_set_on_its_version",
    ),
    "D-38 promotion is capped over all queues": ("test_promote_moves_what_is_due_in_the_queues_it_is_given",),
    "D-40 R13 keys in the memory of a process": (
        "test_the_first_enqueue_of_an_idempotency_key_wins",
        "test_one_of_two_clients_gets_a_unique_key",
    ),
    "D-43 R22 R28 limits and fairness outside the store": (
        "test_lanes_share_by_weight",
        "test_a_rate_holds_over_any_window",
        "test_limits_and_modes_hold_for_every_client_at_once",
    ),
    "D-44 a lane's deficit is forgotten": ("test_a_lane_saves_up_nothing_while_it_is_empty",),
    "D-51 D-52 R16 workflow steps enabled twice or never": (
        "test_parents_that_end_in_one_step_enable_the_child_once",
        "test_parents_that_end_on_two_clients_enable_their_child_once",
    ),
    "D-60 R25 an id that is there blocks a queue": ("test_the_same_id_with_the_same_digest_is_the_same_job",),
    "D-76 a count of -1 takes everything": ("test_a_count_out_of_bounds_dequeues_nothing",),
    "D-86 D-88 totals and pages from a part of the jobs": (
        "test_queues_count_their_jobs_by_status_exactly",
        "test_jobs_that_stay_are_listed_once_while_others_come_and_go",
    ),
    "D-89 a queue named like a key of the store": ("test_names_are_never_interpreted",),
    "D-90 R19 nothing is ever deleted": ("test_by_default_ended_jobs_stay_a_day_and_dead_ones_90_days",),
    "D-92 R1 half a batch": ("test_a_batch_with_one_bad_job_leaves_no_trace",),
    "D-93 R17 atomic is not": (
        "test_writes_of_a_call_are_all_or_none_in_order",
        "test_a_new_priority_moves_the_job",
    ),
    "D-94 order is lost in a float": (
        "test_order_is_kept_within_one_millisecond_at_any_priority",
        "test_a_higher_priority_goes_first_and_equals_keep_their_order",
    ),
    "D-98 attempts and retries are mixed up": (
        "test_a_job_starts_at_most_max_retries_plus_one_times",
        "test_a_replayed_job_starts_anew_with_its_errors_kept",
        "test_snooze_gives_the_attempt_back",
    ),
    "D-99 R18 replay and purge of the first 50": (
        "test_all_the_dead_are_replayed_by_a_walk",
        "test_purging_the_dead_deletes_them",
    ),
    "D-104 clocks of workers decide": ("test_a_clock_moved_by_one_client_is_moved_for_all",),
    "D-107 two clients of one store collide": ("test_clients_that_dequeue_at_once_get_each_job_once",),
    "D-109 a second connect": ("test_connecting_twice_is_connecting_once",),
    "R5 a log beside the store": ("test_a_client_that_left_takes_nothing_with_it",),
    "R21 guessable tokens": ("test_completion_tokens_never_repeat_and_fences_grow",),
}
"""Only what a store answers for; the worker, the plugins and the surfaces keep out the rest."""
