use super::*;

/// Videos of 100, 300 and 900 kb/s that had these.
fn videos(before: &[Option<u8>]) -> Vec<Video> {
    let of = |(at, before): (usize, &Option<u8>)| Video {
        slot: at as u32,
        weight: weight::OTHER,
        bps: [100_000, 300_000, 900_000],
        encodings: 3,
        is_spatial: false,
        rank_max: 2,
        is_hidden: false,
        layers_bps: [0; LOWER],
        layers_before: None,
        layers: None,
        before: Some(*before),
        now: None,
        is_urgent: false,
        measured: [100_000, 300_000, 900_000],
        room: Headroom::NONE,
    };
    before.iter().enumerate().map(of).collect()
}

/// What the estimate gives, of a path that has just carried nothing.
fn known(bps: u64) -> Budget {
    Budget { bps, carried: Some(0), is_calm: false, is_lossy: false }
}

fn given(videos: &[Video]) -> Vec<Option<u8>> {
    videos.iter().map(|video| video.now).collect()
}

/// What a budget gives in the end, when all is raised that is.
fn allocate(budget: u64, before: &[Option<u8>]) -> Vec<Option<u8>> {
    let (mut allocator, mut before) = (Allocator::default(), before.to_vec());
    for n in 0..20 {
        let mut videos = videos(&before);
        allocator.allocate(n * RAISE_EACH, &known(budget), &mut videos);
        before = given(&videos);
    }
    before
}

#[test]
fn everybody_is_seen_before_anybody_is_seen_better() {
    assert_eq!(allocate(50_000, &[None; 3]), [None, None, None]);
    assert_eq!(allocate(250_000, &[None; 3]), [Some(0), Some(0), None], "the lightest is paused first");
    assert_eq!(allocate(400_000, &[None; 3]), [Some(0), Some(0), Some(0)]);
    assert_eq!(allocate(600_000, &[None; 3]), [Some(1), Some(0), Some(0)], "the heaviest is raised first");
    assert_eq!(allocate(1_000_000, &[None; 3]), [Some(1), Some(1), Some(1)]);
    assert_eq!(allocate(2_000_000, &[None; 3]), [Some(2), Some(1), Some(1)]);
    assert_eq!(allocate(10_000_000, &[None; 3]), [Some(2), Some(2), Some(2)]);
}

#[test]
fn rates_that_move_a_little_change_nothing() {
    for budget in [860_000, 900_000, 950_000, 970_000] {
        assert_eq!(allocate(budget, &[Some(1); 3]), [Some(1); 3], "{budget}: what is taken stays");
        assert_eq!(allocate(budget, &[Some(0); 3]), [Some(1), Some(1), Some(0)], "{budget}: what is new needs more");
    }
    assert_eq!(allocate(850_000, &[Some(1); 3]), [Some(1), Some(1), Some(0)]);
}

#[test]
fn nothing_is_raised_soon_after_something_was_lowered() {
    let mut allocator = Allocator::default();
    let mut at = |now, budget, before: &[Option<u8>]| {
        let mut videos = videos(before);
        allocator.allocate(now, &known(budget), &mut videos);
        given(&videos)
    };
    assert_eq!(at(SECOND, 300_000, &[Some(2), Some(2)]), [Some(0), Some(0)]);
    assert_eq!(at(2 * SECOND, 10_000_000, &[Some(0), Some(0)]), [Some(0), Some(0)]);
    assert_eq!(at(4 * SECOND, 10_000_000, &[Some(0), Some(0)]), [Some(2), Some(2)]);
}

#[test]
fn what_moves_from_one_to_another_says_nothing_of_the_path() {
    let mut allocator = Allocator::default();
    let mut at = |ms, budget, speaker: usize, before: &[Option<u8>]| {
        let mut videos = videos(before);
        videos[speaker].weight = weight::SPEAKER;
        allocator.allocate(ms * MILLISECOND, &known(budget), &mut videos);
        videos.sort_by_key(|video| video.slot);
        given(&videos)
    };
    assert_eq!(at(1000, 450_000, 0, &[Some(0), Some(0)]), [Some(1), Some(0)]);
    assert_eq!(at(6000, 450_000, 1, &[Some(1), Some(0)]), [Some(0), Some(1)], "it speaks now");
    assert_eq!(at(7000, 450_000, 0, &[Some(0), Some(1)]), [Some(0), Some(1)], "not again so soon");
    assert_eq!(at(10_000, 450_000, 0, &[Some(0), Some(1)]), [Some(1), Some(0)]);
    // The path gets worse, four seconds after what was given last was given to another one.
    assert_eq!(at(14_000, 250_000, 0, &[Some(1), Some(0)]), [Some(0), Some(0)]);
    assert_eq!(at(17_000, 450_000, 0, &[Some(0), Some(0)]), [Some(1), Some(0)], "that was not in vain");
}

#[test]
fn keyframes_of_what_is_raised_do_not_come_all_at_once() {
    let (mut allocator, mut before) = (Allocator::default(), vec![None; 6]);
    let mut at = |now| {
        let mut videos = videos(&before);
        allocator.allocate(now, &known(800_000), &mut videos);
        before = given(&videos);
        before.iter().flatten().count()
    };
    assert_eq!(at(SECOND), 2, "a quarter of the budget");
    assert_eq!(at(SECOND + RAISE_EACH / 2), 2);
    assert_eq!(at(SECOND + RAISE_EACH), 4);
    assert_eq!(at(SECOND + 2 * RAISE_EACH), 6);
}

#[test]
fn a_path_that_loses_without_a_queue_gets_the_lowest_encodings() {
    let lossy = Budget { is_lossy: true, ..known(50_000) };
    for before in [[None, None], [Some(0), Some(0)], [Some(1), None]] {
        let mut both = videos(&before);
        let mut allocator = Allocator { short_since: Some(0), ..Allocator::default() };
        allocator.allocate(9 * SECOND, &lossy, &mut both);
        assert_eq!(given(&both), [Some(0), Some(0)], "{before:?}");
    }
}

#[test]
fn temporal_layers_are_left_out_before_a_video_is_paused_and_come_back() {
    let (mut allocator, mut had) = (Allocator::default(), [(Some(0), None); 2]);
    let mut at = |now, bps| {
        let mut both = videos(&had.map(|(before, _)| before));
        for (video, (_, layers)) in both.iter_mut().zip(had) {
            (video.layers_bps, video.layers_before) = ([50_000, 75_000], layers);
        }
        allocator.allocate(now, &known(bps), &mut both);
        had = [0, 1].map(|n| (both[n].now, both[n].layers));
        had
    };
    assert_eq!(at(SECOND, 200_000), [(Some(0), None); 2]);
    assert_eq!(at(2 * SECOND, 175_000), [(Some(0), None), (Some(0), Some(1))]);
    assert_eq!(at(3 * SECOND, 150_000), [(Some(0), Some(1)); 2]);
    assert_eq!(at(4 * SECOND, 125_000), [(Some(0), Some(1)), (Some(0), Some(0))]);
    assert_eq!(at(5 * SECOND, 100_000), [(Some(0), Some(0)); 2]);
    assert_eq!(at(6 * SECOND, 60_000), [(Some(0), Some(0)); 2], "a base is kept for two seconds");
    assert_eq!(at(8 * SECOND, 60_000), [(Some(0), Some(0)), (None, None)]);
    assert_eq!(at(15 * SECOND, 77_000), [(Some(0), Some(1)), (None, None)], "a layer begins without a keyframe");
    let mut now = 20 * SECOND;
    while now < 24 * SECOND {
        at(now, 500_000);
        now += RAISE_EACH;
    }
    assert_eq!(at(now, 500_000), [(Some(1), None), (Some(0), None)], "all that was left out is back");
}

#[test]
fn nothing_is_paused_before_it_has_not_fitted_for_a_while() {
    let mut allocator = Allocator::default();
    let mut at = |now, budget: Budget, before: &[Option<u8>]| {
        let mut videos = videos(before);
        allocator.allocate(now, &budget, &mut videos);
        given(&videos)
    };
    let both = [Some(0), Some(0)];
    assert_eq!(at(SECOND, known(150_000), &both), both);
    assert_eq!(at(2 * SECOND, known(300_000), &both), both, "they fit again");
    assert_eq!(at(3 * SECOND, known(150_000), &both), both);
    assert_eq!(at(4 * SECOND, known(150_000), &both), both);
    assert_eq!(at(5 * SECOND, known(150_000), &both), [Some(0), None], "the lighter one is paused");
    let carried = Budget { carried: Some(180_000), ..known(150_000) };
    assert_eq!(at(9 * SECOND, carried, &both), both, "the path carries them, whatever the estimate");
    assert_eq!(at(20 * SECOND, known(250_000), &[Some(0), None]), both, "what was paused goes on");
}

#[test]
fn what_is_too_much_by_far_ends_at_once() {
    let mut some = videos(&[Some(2), Some(1)]);
    Allocator::default().allocate(0, &known(900_000), &mut some);
    assert!(some.iter().all(|video| !video.is_urgent) && some[0].now == Some(1), "{some:?}");
    let mut some = videos(&[Some(2), Some(1)]);
    Allocator::default().allocate(0, &known(300_000), &mut some);
    assert!(some.iter().all(|video| video.is_urgent && video.now == Some(0)), "{some:?}");
}

#[test]
fn what_has_just_come_is_seen_at_once() {
    let mut allocator = Allocator { lowered_at: Some(SECOND), ..Allocator::default() };
    let mut both = videos(&[Some(0), None]);
    both[1].before = None;
    allocator.allocate(SECOND, &known(10_000_000), &mut both);
    assert_eq!(given(&both), [Some(0), Some(2)]);
}

#[test]
fn before_there_is_feedback_nothing_is_paused() {
    let mut videos = videos(&[None; 3]);
    let unknown = Budget { carried: None, is_calm: true, ..known(50_000) };
    let (_, wanted) = Allocator::default().allocate(0, &unknown, &mut videos);
    assert_eq!((given(&videos), wanted), (vec![Some(0); 3], 2_700_000));
    videos.iter_mut().for_each(|video| (video.bps, video.now) = ([0; 3], None));
    Allocator::default().allocate(0, &Budget { bps: 5_000_000, ..unknown }, &mut videos);
    assert_eq!(given(&videos), vec![Some(0); 3], "nor is a better one given whose rate nobody knows");
}

#[test]
fn an_encoding_that_was_not_seen_is_assumed_to_be_a_step_above() {
    let mut video = Video { bps: [100_000, 0, 0], ..videos(&[None])[0] };
    assert_eq!([0, 1, 2].map(|rank| video.cost(rank)), [100_000.0, 300_000.0, 900_000.0]);
    video.bps = [0, 200_000, 0];
    assert_eq!([0, 1, 2].map(|rank| video.cost(rank)), [0.0, 200_000.0, 600_000.0]);
    video.bps = [u32::MAX; 3];
    video.bps[2] = 0;
    assert_eq!(video.cost(2), f64::from(u32::MAX));
}

#[test]
fn what_is_pinned_is_served_before_others_are_seen_and_a_screen_before_that() {
    let of = |budget, weights: [u8; 3], before: [Option<u8>; 3]| {
        let mut some = videos(&before);
        some.iter_mut().zip(weights).for_each(|(video, weight)| video.weight = weight);
        Allocator::default().allocate(0, &known(budget), &mut some);
        some.sort_by_key(|video| video.slot);
        given(&some)
    };
    use weight::{OTHER, PINNED, SCREEN, SPEAKER};
    let low = [Some(0); 3];
    assert_eq!(of(600_000, [OTHER, SPEAKER, OTHER], low), [Some(0), Some(1), Some(0)], "who speaks is raised first");
    assert_eq!(of(360_000, [OTHER, SPEAKER, OTHER], low), low, "and nobody is paused for it");
    assert_eq!(of(360_000, [OTHER, PINNED, OTHER], low), [None, Some(1), None], "the others give way at once");
    assert_eq!(of(460_000, [OTHER, PINNED, OTHER], low), [Some(0), Some(1), None]);
    assert_eq!(of(1_000_000, [OTHER, PINNED, OTHER], low), [Some(0), Some(2), None]);
    assert_eq!(of(460_000, [SCREEN, PINNED, OTHER], low), [Some(1), Some(0), None]);
    assert_eq!(of(10_000_000, [OTHER, PINNED, SCREEN], low), [Some(2); 3]);
}

#[test]
fn what_is_hidden_costs_nothing_and_comes_back_at_once() {
    let mut allocator = Allocator::default();
    let mut some = videos(&[Some(1), Some(1)]);
    some[0].is_hidden = true;
    let (spent, wanted) = allocator.allocate(SECOND, &known(640_000), &mut some);
    assert_eq!((given(&some), spent, wanted), (vec![None, Some(1)], 300_000, 900_000));
    assert!(!some[0].is_urgent && allocator.lowered_at.is_none(), "nothing was lowered for want of bandwidth");
    let mut some = videos(&[Some(1), Some(1)]);
    some[0].before = None;
    allocator.allocate(SECOND, &known(800_000), &mut some);
    assert_eq!(given(&some), [Some(1), Some(1)]);
}

#[test]
fn what_is_left_over_is_room_for_what_is_given() {
    let room = |budget, before: &[Option<u8>], change: &dyn Fn(&mut [Video])| {
        let mut some = videos(before);
        change(&mut some);
        Allocator { lowered_at: Some(0), ..Allocator::default() }.allocate(0, &known(budget), &mut some);
        some.iter().map(|video| (video.room.bps, video.room.is_needed)).collect::<Vec<_>>()
    };
    let none = (u32::MAX, false);
    let low = [Some(0), Some(0)];
    assert_eq!(room(260_000, &low, &|_| ()), [(123_500, true); 2], "the same to each, but for what is left free");
    assert_eq!(room(500_000, &low, &|_| ()), [(210_000, true); 2], "in steps");
    let still = |videos: &mut [Video]| (videos[0].bps[0], videos[0].measured[0]) = (20_000, 20_000);
    assert_eq!(room(260_000, &low, &still), [(50_000, true), (197_000, true)], "who sends little leaves the rest");
    assert_eq!(room(460_000, &[Some(1), Some(0)], &|_| ()), [(300_000, true), (137_000, true)], "beside a better one");
    let small = |videos: &mut [Video]| videos[0].rank_max = 0;
    assert_eq!(room(260_000, &low, &small), [(123_500, false), (123_500, true)], "it is shown small");
    let best = |videos: &mut [Video]| videos[0].encodings = 1;
    assert_eq!(room(260_000, &low, &best)[0], none, "there is no better one");
    // One that sends more already costs what it would of its own.
    let raised = |videos: &mut [Video]| videos.iter_mut().for_each(|video| video.measured[0] = 220_000);
    let mut some = videos(&low);
    raised(&mut some);
    let (taken, _) = Allocator::default().allocate(0, &known(470_000), &mut some);
    assert_eq!((given(&some), taken), (vec![Some(1), Some(0)], 520_000), "400,000 fit, and the rest falls");
    assert_eq!(some[1].room.bps, 146_500);
}

#[test]
fn what_was_raised_in_vain_is_tried_again_later_and_later_or_with_more() {
    let mut allocator = Allocator::default();
    let (mut before, mut raises) = (vec![Some(0)], Vec::new());
    let mut at = |now, budget| {
        let mut one = videos(&before);
        allocator.allocate(now, &known(budget), &mut one);
        raises.extend((one[0].now > before[0]).then_some(now / SECOND));
        before = given(&one);
    };
    // It never carries what it promises.
    for second in 1..60 {
        at(second * SECOND, 400_000);
        at(second * SECOND + SECOND / 2, 200_000);
    }
    at(60 * SECOND, 480_000);
    assert_eq!(raises, [1, 5, 12, 25, 38, 51, 60]);
}

#[test]
fn a_size_that_is_shown_is_rounded_up() {
    let lines = [180, 368, 720];
    let shown = [(0, 0), (180, 0), (200, 0), (201, 1), (360, 1), (405, 1), (540, 2), (720, 2), (2160, 2)];
    for (shown, rank) in shown {
        assert_eq!(rank_for(&lines, shown), Some(rank), "{shown}");
    }
    assert_eq!(rank_for(&lines, SHOWN_LINES_ANY), Some(2));
    assert_eq!((rank_for(&[0, 0, 0], 180), rank_for(&[0, 360], 180)), (Some(2), Some(1)), "not known");
    assert_eq!(rank_for(&[], 180), None);
}

#[test]
fn a_small_picture_gets_no_large_encoding() {
    let mut videos = videos(&[None, None]);
    videos[0].rank_max = 0;
    videos[1].encodings = 1;
    let (_, wanted) = Allocator::default().allocate(0, &known(10_000_000), &mut videos);
    assert_eq!((given(&videos), wanted), (vec![Some(0), Some(0)], 200_000));
}

proptest::proptest! {
    /// Whatever is lighter takes nothing from what is heavier; nothing is larger than it is shown.
    #[test]
    fn the_light_take_nothing_from_the_heavy(
        budget in 0u64..3_000_000,
        carried in proptest::option::of(0u64..3_000_000),
        of in proptest::collection::vec(
            (0u8..=weight::SCREEN, proptest::array::uniform3(1u32..2_000_000), proptest::option::of(0u8..3), 0u8..3, proptest::bool::weighted(0.1)),
            0..12,
        ),
        short in proptest::bool::ANY,
    ) {
        type Drawn = (u8, [u32; 3], Option<u8>, u8, bool);
        let video = |(at, (weight, bps, before, rank_max, is_hidden)): (usize, &Drawn)| {
            let mut bps = *bps;
            bps.sort_unstable();
            let before = Some((*before).filter(|_| !is_hidden));
            let (slot, weight, rank_max, is_hidden) = (at as u32, *weight, *rank_max, *is_hidden);
            Video { slot, weight, bps, encodings: 3, rank_max, is_hidden, before, ..Video::default() }
        };
        let all: Vec<Video> = of.iter().enumerate().map(video).collect();
        let budget = Budget { carried, ..known(budget) };
        let allocate = |mut videos: Vec<Video>| {
            let mut allocator = Allocator { short_since: short.then_some(0), ..Allocator::default() };
            allocator.allocate(9 * SECOND, &budget, &mut videos);
            videos
        };
        let whole = allocate(all.clone());
        for video in &whole {
            proptest::prop_assert!(video.now.is_none_or(|rank| rank <= video.rank_max && !video.is_hidden));
        }
        for least in [weight::PINNED, weight::SCREEN] {
            let heavy = |videos: &[Video]| videos.iter().filter(|v| v.weight >= least).copied().collect::<Vec<_>>();
            let (beside, alone) = (heavy(&whole), allocate(heavy(&all)));
            // One may keep beside something lighter what it would lose alone; that is missing to another one, and they have no less together.
            let keeps_more = beside.iter().zip(&alone).any(|(beside, alone)| beside.now > alone.now);
            let [with, without] = [&beside, &alone].map(|of| of.iter().map(Video::own).sum::<f64>());
            proptest::prop_assert!(with >= without, "{} {}", with, without);
            for (beside, alone) in beside.iter().zip(&alone) {
                proptest::prop_assert!(beside.slot == alone.slot && (beside.now >= alone.now || keeps_more), "{:?} {:?}", beside, alone);
            }
        }
    }

    #[test]
    fn a_budget_is_never_exceeded_by_more_than_what_is_kept(
        budget in 0u64..3_000_000,
        rates in proptest::collection::vec(proptest::array::uniform3(0u32..2_000_000), 0..12),
        before in proptest::collection::vec(proptest::option::of(0u8..3), 12),
    ) {
        let mut videos: Vec<Video> = rates
            .iter()
            .zip(&before)
            .enumerate()
            .map(|(at, (bps, before))| {
                let mut bps = *bps;
                bps.sort_unstable();
                let slot = at as u32;
                Video { slot, weight: at as u8 % 4, bps, encodings: 3, rank_max: 2, before: Some(*before), ..Video::default() }
            })
            .collect();
        let mut allocator = Allocator { short_since: Some(0), ..Allocator::default() };
        allocator.allocate(9 * SECOND, &known(budget), &mut videos);
        let spent: f64 = videos.iter().filter_map(|video| video.now.map(|rank| video.cost(rank))).sum();
        proptest::prop_assert!(spent <= budget as f64 * KEEP + 1.0);
        // The same again changes nothing.
        let mut again: Vec<_> =
            videos.iter().map(|video| Video { before: Some(video.now), now: None, ..*video }).collect();
        Allocator { lowered_at: Some(0), ..Allocator::default() }.allocate(0, &known(budget), &mut again);
        proptest::prop_assert_eq!(given(&again), given(&videos));
    }
}
