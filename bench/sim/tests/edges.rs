//! Many edges and the paths between them keep what is promised, whatever goes wrong between them.

use sim::edges::{DEAD_MAX, Plan, run};

#[test]
fn a_dead_path_is_left_while_another_one_is_well() {
    for seed in 0..40 {
        let score = run(Plan::SMALL, seed);
        assert!(score.dead_max() <= DEAD_MAX, "seed {seed}: {score}");
    }
}

#[test]
fn the_paths_in_use_cost_little_more_than_the_best() {
    let plan = Plan { edges: 60, relays: 20, pairs: 150, seconds: 60, calamities: 4 };
    let score = run(plan, 1);
    let (used, best) = score.costs();
    assert!(used <= 1.10 * best, "{score}");
    assert!(score.dead_max() <= DEAD_MAX, "{score}");
}

#[test]
fn a_seed_is_a_run() {
    assert_eq!(run(Plan::SMALL, 7).to_string(), run(Plan::SMALL, 7).to_string());
}
