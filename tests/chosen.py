"""What jobs/test.sh runs of the tests of real ranks and of SLURM: each capability once. With --all it runs them all."""

from collections.abc import Collection, Iterable

CHOSEN = {
    "each launcher and backend, each way to average": """
        test_averaging_ranks.py::test_real_ranks_train_as_simulated_ones_do
        test_averaging_ranks.py::test_collectives_are_the_same_by_both_backends[2]
        test_cli.py::test_every_launcher_runs_the_same_line_to_the_same_model
        test_readme.py
        """,
    "the command, from a YAML file to its run directory": """
        test_cli.py::test_a_run_directory
        test_cli.py::test_bad_input_is_told_once_by_many_ranks
        test_cli.py::test_the_evaluation_does_not_depend_on_the_number_of_ranks
        test_own_algorithm.py
        """,
    "every algorithm by its published rule": """
        test_trajectories.py::test_real_ranks_follow_the_published_rule[horovod-2]
        test_simulation.py::test_real_ranks_train_every_algorithm_to_the_same_values
        """,
    "what is sent": """
        test_horovod.py::test_exactly_one_collective_a_round
        test_horovod.py::test_a_gradient_method_sends_one_message_a_step
        test_family.py::test_buckets_are_sent_while_backward_still_makes_others
        test_family.py::test_neighbours_exchange_without_a_collective[4]
        test_pieces.py::test_pieces_make_the_same_values[7-horovod-mpirun]
        test_pieces.py::test_pieces_make_the_same_values[7-mpi4py-mpirun]
        test_host_staging.py
        """,
    "loops of one's own": """
        test_idioms.py
        test_join.py
        test_buffers.py
        test_owner.py
        test_wrapped.py
        test_compiled.py::test_two_real_ranks
        test_parts.py::test_two_process_sets_train_two_models_as_two_worlds_of_two_ranks_do
        """,
    "images": """
        test_images.py::test_a_resnet_on_real_ranks_is_as_on_simulated_ones[algorithm0-average]
        """,
    "kills, stops and failures": """
        test_faults.py::test_a_killed_rank_ends_the_job_and_is_named_by_status_and_the_next_attempt[mpirun-1]
        test_faults.py::test_a_killed_rank_ends_the_job_and_is_named_by_status_and_the_next_attempt[horovodrun-gloo-0]
        test_faults.py::test_signals_stop_all_ranks_at_the_same_step[SIGTERM on rank 1]
        test_faults.py::test_an_exception_in_the_data_is_told_first_and_ends_all[mpirun-more0]
        test_faults.py::test_ranks_with_unlike_settings_are_shown_in_a_table
        test_horovod.py::test_ranks_that_disagree_end_with_an_error
        test_watch_own_loop.py::test_a_start_that_one_rank_makes_is_named
        """,
    "resume": """
        test_resume.py::test_a_killed_run_goes_on_to_the_bit[celgc, language model, streaming]
        test_resume.py::test_a_killed_run_goes_on_to_the_bit[scaffold]
        test_resume.py::test_another_number_of_ranks_is_said_aloud_or_refused
        test_elastic.py::test_a_stop_is_saved_and_resumed
        """,
    "SLURM": """
        test_submit.py::test_a_submitted_job_is_the_same_as_under_mpirun[2-1]
        """,
}
IDS = [line.strip() for ids in CHOSEN.values() for line in ids.strip().splitlines()]


def is_chosen(test: str, ids: Iterable[str] = IDS) -> bool:
    """Whether a test is chosen: by its file and name, or by its file, or its name without parameters, alone."""
    return any(test == chosen or test.startswith((f"{chosen}::", f"{chosen}[")) for chosen in ids)


def without_a_test(tests: Collection[str]) -> list[str]:
    """What is chosen in the files of these tests, and is none of them."""
    files = {test.partition("::")[0] for test in tests}
    return [
        chosen
        for chosen in IDS
        if chosen.partition("::")[0] in files and not any(is_chosen(test, [chosen]) for test in tests)
    ]
