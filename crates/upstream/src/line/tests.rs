//! Who is called, and when.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

/// Whether the session was called; otherwise its waker is left behind.
fn is_called(place: &Place<'_>) -> bool {
    place.poll(&Context::from_waker(Waker::noop())).is_ready()
}

fn rested(line: &Line, is_full: bool) -> Place<'_> {
    let mut place = line.join(u32::MAX).unwrap();
    place.rest(is_full, line.events());
    assert!(!is_called(&place));
    place
}

#[test]
fn each_call_is_for_the_first() {
    let line = Line::default();
    let places: Vec<_> = (0..4).map(|_| rested(&line, true)).collect();
    for count in 1..=4 {
        line.call();
        let called: Vec<_> = places.iter().map(is_called).collect();
        assert_eq!(called, [count > 0, count > 1, count > 2, count > 3]);
    }
    assert!(!line.is_behind_full());
}

#[test]
fn who_has_an_endpoint_calls_the_next_once_and_only_behind_itself() {
    let line = Line::default();
    let mut first = rested(&line, false);
    let (second, third) = (rested(&line, false), rested(&line, false));
    line.call();
    first.call_next();
    first.call_next();
    assert!(is_called(&second) && !is_called(&third));
    // The first has failed again: the second does not call it back.
    first.rest(false, line.events());
    let mut second = second;
    second.call_next();
    assert!(is_called(&third) && !is_called(&first));
}

#[test]
fn a_call_is_not_lost_with_who_was_called() {
    let line = Line::default();
    let (first, second) = (rested(&line, true), rested(&line, true));
    line.call();
    drop(first);
    assert!(is_called(&second), "the client of the first has left");
    let third = rested(&line, true);
    drop(second);
    assert!(is_called(&third));
    drop(third);
    assert_eq!((line.len(), line.is_behind_full()), (0, false));
}

#[test]
fn who_leaves_while_resting_calls_nobody() {
    let line = Line::default();
    let (first, second) = (rested(&line, true), rested(&line, true));
    drop(first);
    assert!(!is_called(&second));
    // Nor does who has joined and leaves without having rested.
    drop(line.join(u32::MAX));
    assert!(!is_called(&second));
}

#[test]
fn what_happened_since_it_last_looked_counts() {
    let line = Line::default();
    let mut place = line.join(1).unwrap();
    let seen = line.events();
    line.call();
    place.rest(true, seen);
    assert!(is_called(&place));
    assert!(line.join(1).is_none(), "one waits, one may");
}

#[test]
fn by_its_own_clock_only_the_first_tries() {
    let line = Line::default();
    let (first, second) = (rested(&line, false), rested(&line, false));
    assert!(!second.call_myself() && !is_called(&second));
    assert!(first.call_myself() && is_called(&first));
}

/// Sessions of one core, as the connector has them wait.
#[test]
fn sessions_are_served_as_they_came() {
    let owner = Rc::new(EventLoop::new().unwrap());
    let (line, served) = (Arc::new(Line::default()), Rc::new(RefCell::new(Vec::new())));
    for number in 0..20 {
        let (inner, line, served) = (Rc::clone(&owner), Arc::clone(&line), Rc::clone(&served));
        owner.spawn(async move {
            let until = Instant::now() + Duration::from_secs(if number == 7 { 0 } else { 60 });
            let mut place = line.join(u32::MAX).unwrap();
            if place.turn(&inner, true, line.events(), until).await {
                served.borrow_mut().push(number);
                place.call_next();
            }
        });
    }
    let (mut ready, mut expired) = (Vec::new(), Vec::new());
    while owner.live_tasks() > 19 {
        owner.turn(|| Some(Duration::ZERO), &mut ready, &mut expired).unwrap();
    }
    line.call();
    while owner.live_tasks() > 0 {
        owner.turn(|| Some(Duration::ZERO), &mut ready, &mut expired).unwrap();
    }
    let expected: Vec<_> = (0..20).filter(|number| *number != 7).collect();
    assert_eq!(*served.borrow(), expected);
    assert_eq!(line.len(), 0);
}

proptest! {
    /// Against a list of who rests.
    #[test]
    fn like_a_list(steps in prop::collection::vec((0_u8..6, any::<prop::sample::Index>()), 1..120)) {
        let line = Line::default();
        // Each with whether it rests.
        let mut places: Vec<(Place<'_>, bool)> = Vec::new();
        for (step, which) in steps {
            let at = (!places.is_empty()).then(|| which.index(places.len()));
            let behind = |places: &mut Vec<(Place<'_>, bool)>, from: usize| {
                let next = places.iter_mut().skip(from).find(|(_, rests)| *rests);
                next.into_iter().for_each(|(_, rests)| *rests = false);
            };
            match (step, at) {
                (0, _) => places.push((rested(&line, true), true)),
                (1, _) => {
                    line.call();
                    behind(&mut places, 0);
                }
                (2, Some(at)) if !places[at].1 => {
                    let passes = !places[at].0.has_called;
                    places[at].0.call_next();
                    if passes {
                        behind(&mut places, at + 1);
                    }
                }
                (3, Some(at)) if !places[at].1 => {
                    places[at].0.rest(true, line.events());
                    places[at].1 = true;
                }
                (4, Some(at)) => {
                    let (place, rests) = places.remove(at);
                    let passes = !rests && !place.has_called;
                    drop(place);
                    if passes {
                        behind(&mut places, at);
                    }
                }
                _ => {}
            }
            for (place, rests) in &places {
                prop_assert_eq!(is_called(place), !*rests);
            }
            let resting = places.iter().filter(|(_, rests)| *rests).count() as u32;
            prop_assert_eq!(line.resting.load(SeqCst), resting);
            prop_assert_eq!(line.behind_full.load(SeqCst), resting);
            prop_assert_eq!(line.len(), places.len());
        }
    }
}
