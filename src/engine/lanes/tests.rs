use proptest::prelude::*;

use super::*;

const KNOBS: Knobs = Knobs {
    batch_size: 4,
    max_delay: Duration::from_millis(10),
    tokens_max: 10_000,
    padding_max: 0.25,
    queue_size: 64,
    shadow_queue_size: 8,
};
const SHAPE: Shape = Shape { patches: 100, token_multiple: 8, powers_of_two: false };

fn lanes(lane: Lane, sizes: &[(usize, usize)], since: Instant) -> Lanes<usize> {
    let mut lanes = Lanes::default();
    for (item, &(rows, tokens)) in sizes.iter().enumerate() {
        lanes.push(lane, Waiting { item, since, size: Size { rows, tokens }, breakages: 0 });
    }
    lanes
}

fn go(lane: Lane, reason: Reason, places: &[usize]) -> Decision {
    Decision::Go { lane, reason, places: places.to_vec() }
}

#[test]
fn the_first_request_waits_for_others_and_never_longer_than_its_delay() {
    let now = Instant::now();
    let waiting = lanes(Lane::Live, &[(1, 20), (1, 24)], now);
    assert_eq!(waiting.decide(now, &KNOBS, &SHAPE, false), Decision::Until(now + KNOBS.max_delay));
    assert_eq!(waiting.decide(now + KNOBS.max_delay, &KNOBS, &SHAPE, false), go(Lane::Live, Reason::Delay, &[0, 1]));
    assert_eq!(waiting.decide(now, &KNOBS, &SHAPE, true), go(Lane::Live, Reason::Drain, &[0, 1]));
    let at_once = Knobs { max_delay: Duration::ZERO, ..KNOBS };
    assert_eq!(waiting.decide(now, &at_once, &SHAPE, false), go(Lane::Live, Reason::Idle, &[0, 1]));
    assert_eq!(Lanes::<usize>::default().decide(now, &KNOBS, &SHAPE, true), Decision::Nothing);
}

#[test]
fn a_full_pass_goes_at_once() {
    let now = Instant::now();
    let waiting = lanes(Lane::Live, &[(1, 20); 6], now);
    assert_eq!(waiting.decide(now, &KNOBS, &SHAPE, false), go(Lane::Live, Reason::Full, &[0, 1, 2, 3]));
    let few = Knobs { tokens_max: 250, ..KNOBS };
    assert_eq!(waiting.decide(now, &few, &SHAPE, false), go(Lane::Live, Reason::Full, &[0, 1]));
    let none = Knobs { tokens_max: 1, ..KNOBS };
    assert_eq!(
        waiting.decide(now, &none, &SHAPE, false),
        go(Lane::Live, Reason::Full, &[0]),
        "one goes whatever it has"
    );
}

#[test]
fn texts_of_about_one_length_come_together() {
    let now = Instant::now();
    let at_once = Knobs { max_delay: Duration::ZERO, ..KNOBS };
    // The third would pad the first two from 120 positions to 300.
    let waiting = lanes(Lane::Live, &[(1, 20), (1, 24), (1, 200), (1, 17)], now);
    assert_eq!(waiting.decide(now, &at_once, &SHAPE, false), go(Lane::Live, Reason::Idle, &[0, 1, 3]));
}

#[test]
fn what_was_handed_back_goes_first_and_alone_and_shadows_go_last() {
    let now = Instant::now();
    let mut waiting = lanes(Lane::Live, &[(1, 20)], now);
    for lane in [Lane::Shadow, Lane::Shadow, Lane::Retry, Lane::Retry] {
        waiting.push(lane, Waiting { item: 9, since: now, size: Size { rows: 1, tokens: 20 }, breakages: 1 });
    }
    for _ in 0..2 {
        assert_eq!(waiting.decide(now, &KNOBS, &SHAPE, false), go(Lane::Retry, Reason::Retry, &[0]));
        waiting.take(Lane::Retry, &[0]);
    }
    assert!(matches!(waiting.decide(now, &KNOBS, &SHAPE, false), Decision::Until(_)), "a shadow waits with the live");
    waiting.take(Lane::Live, &[0]);
    assert_eq!(waiting.decide(now, &KNOBS, &SHAPE, false), go(Lane::Shadow, Reason::Idle, &[0, 1]));
}

#[test]
fn rows_are_rounded_up_to_powers_of_two_where_the_device_wants_it() {
    let shape = Shape { powers_of_two: true, ..SHAPE };
    let positions = shape.positions([Size { rows: 2, tokens: 20 }, Size { rows: 1, tokens: 9 }].into_iter());
    assert_eq!(positions, Positions { padded: 4 * 124, held: 2 * 120 + 109 });
    assert!((positions.padding() - (1.0 - 349.0 / 496.0)).abs() < 1e-12);
    assert_eq!(shape.positions(std::iter::empty()), Positions::default());
}

proptest! {
    #[test]
    fn every_request_leaves_once_within_the_bounds_and_the_oldest_is_always_in_the_next_pass(
        sizes in prop::collection::vec((1_usize..4, 1_usize..300), 1..40),
        batch_size in 1_usize..9,
        tokens_max in 1_usize..3_000,
        padding_max in 0.0..1.0_f64,
    ) {
        let now = Instant::now();
        let knobs = Knobs { batch_size, tokens_max, padding_max, ..KNOBS };
        let mut waiting = lanes(Lane::Live, &sizes, now);
        let mut left: Vec<usize> = (0..sizes.len()).collect();
        while !left.is_empty() {
            let Decision::Go { lane, places, .. } = waiting.decide(now, &knobs, &SHAPE, true) else {
                panic!("nothing goes, and {left:?} wait");
            };
            let batch = waiting.take(lane, &places);
            prop_assert_eq!(batch[0].item, left[0]);
            prop_assert!(batch.len() <= batch_size);
            let positions = SHAPE.positions(batch.iter().map(|waiting| waiting.size));
            prop_assert!(batch.len() == 1 || positions.padded <= tokens_max && positions.padding() <= padding_max);
            left.retain(|item| !batch.iter().any(|waiting| waiting.item == *item));
        }
        prop_assert_eq!(waiting.len(Lane::Live), 0);
    }

    #[test]
    fn what_is_put_back_is_in_front_and_in_order(count in 1_usize..10, taken in 1_usize..10) {
        let now = Instant::now();
        let mut waiting = lanes(Lane::Shadow, &vec![(1, 20); count], now);
        let places: Vec<usize> = (0..taken.min(count)).collect();
        let batch = waiting.take(Lane::Shadow, &places);
        waiting.put_back(Lane::Shadow, batch);
        let order: Vec<usize> = waiting.clear(Lane::Shadow).into_iter().map(|waiting| waiting.item).collect();
        prop_assert_eq!(order, (0..count).collect::<Vec<_>>());
    }
}
