//! Sandboxes: what runs an actor's processes, behind one behavioural contract.
