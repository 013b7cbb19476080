//! Nodes that come and go.

use super::second::Second;
use super::world::world;

const ROLLED_BACK: &str = ".status.conditions[?(@.type==\"RolledBack\")].status";

#[test]
fn an_actor_sleeps_on_one_node_and_wakes_on_another() {
    let w = world();
    if w.left_out("it starts another node") {
        return;
    }
    let second = Second::start(&w);
    second.gather(&second.first());
    let actor = w.actor("emigrant");
    assert_eq!(actor.visit(), (1, 1));
    assert_eq!(actor.visit(), (2, 2));
    actor.sleep();
    second.gather(&second.name());
    assert_eq!(actor.visit(), (3, 3));
    assert_eq!(actor.field(".status.worker.node"), second.name());
    assert_eq!(actor.field(ROLLED_BACK), "");
}
