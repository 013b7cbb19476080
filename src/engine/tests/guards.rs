//! Takes one guard out at a time: a simulation that does not miss it proves nothing.

use super::schedule::run;
use super::world::Guards;

/// Schedules within which a missing guard must show.
const ENOUGH: u64 = 3_000;

/// The same weather with every guard in place.
fn control(guards: Guards) -> Guards {
    match guards {
        Guards::NoOwners | Guards::NoClaimEpochs => Guards::AllStalling,
        _ => Guards::All,
    }
}

/// Whether a schedule, of those from seed `first` on, breaks without the guard, and does not with it.
fn is_missed(guards: Guards, first: u64) -> bool {
    (first..first + ENOUGH).any(|seed| {
        let Err(failure) = run(seed, guards) else {
            return false;
        };
        println!("{guards:?}: seed {seed}: {}", failure.what);
        if let Err(anyway) = run(seed, control(guards)) {
            panic!("breaks with every guard in place: {anyway}");
        }
        true
    })
}

/// Schedules with many stalls that the engine has to stand.
const STALLING: u64 = 500;

#[test]
fn with_every_guard_stalls_do_no_harm() {
    for seed in 0..STALLING {
        if let Err(failure) = run(seed, Guards::AllStalling) {
            panic!("{failure}");
        }
    }
}

macro_rules! missed {
    ($($test:ident: $guard:ident from $first:literal;)*) => {
        $(#[test]
        fn $test() {
            assert!(is_missed(Guards::$guard, $first));
        })*
    };
}

// The schedules that miss a guard may be rare: where to begin saves walking thousands that do not.
missed! {
    nodes_must_refuse_older_epochs: NoEpochs from 100;
    nodes_must_freeze_when_their_lease_lapses: NoFreezing from 0;
    nodes_must_stop_what_they_are_told_before_they_thaw: NoStopSlots from 0;
    nodes_must_end_what_they_say_they_ended: NoStop from 0;
    a_snapshot_must_be_published_before_it_is_acknowledged: EarlyAnswer from 0;
    only_a_suspend_whose_image_is_complete_is_cut_short: NoYielding from 0;
    nodes_must_drop_what_no_record_needs: NoDropping from 0;
    the_store_must_know_the_owner: NoOwners from 14000;
    a_lease_must_have_lapsed_before_a_node_is_lost: NoWaiting from 0;
    a_release_must_name_its_epoch: NoClaimEpochs from 500;
    expired_operations_must_be_taken_over: NoTakeOver from 0;
}
