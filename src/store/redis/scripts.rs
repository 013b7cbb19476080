//! The scripts. Each is one file in `lua/` behind a prelude; each is atomic and stays in one hash slot.

use std::sync::LazyLock;

/// Scripts that a server whose memory is full refuses. All others go on: what reads, what goes on with operations and
/// leases, and what makes room.
const GROWING: [&str; 3] = ["create", "update_spec", "put_document"];

/// A script and the SHA-1 by which a server that has seen it knows it.
#[derive(Debug)]
pub struct Lua {
    /// Its file, without the ending.
    pub name: &'static str,
    /// Its source.
    pub text: String,
    /// Hex SHA-1 of the source.
    pub sha1: String,
}

impl Lua {
    fn new(file: &'static str, text: &str) -> Self {
        let name = file.trim_end_matches(".lua");
        let head = match GROWING.contains(&name) {
            true => "#!lua\n",
            false => "#!lua flags=allow-oom\n",
        };
        let text = format!("{head}{text}");
        Self {
            name,
            sha1: ::redis::Script::new(&text).get_hash().to_owned(),
            text,
        }
    }
}

macro_rules! scripts {
    ($($name:ident = $first:literal $(, $more:literal)*;)*) => {
        $(
            #[doc = concat!("`lua/", $first, "`.")]
            pub static $name: LazyLock<Lua> =
                LazyLock::new(|| Lua::new($first, concat!(include_str!("lua/prelude.lua"), $(include_str!(concat!("lua/", $more)),)* include_str!(concat!("lua/", $first)))));
        )*

        /// Their names.
        pub const NAMES: &[&str] = &[$($first.split_at($first.len() - ".lua".len()).0,)*];

        /// All of them, to be loaded when a connection is made.
        pub fn all() -> Vec<&'static Lua> {
            vec![$(&*$name,)*]
        }
    };
}

scripts! {
    BOOT = "boot.lua";
    BOOTED = "booted.lua";
    CLOCK = "clock.lua";
    RAISE = "raise.lua";
    RECOVER = "recover.lua";
    CHANGES = "changes.lua";
    COUNT = "count.lua";
    GET = "get.lua", "actor.lua";
    GET_FLAT = "get_flat.lua", "actor.lua";
    CREATE = "create.lua", "actor.lua";
    BEGIN = "begin.lua", "actor.lua";
    COMMIT = "commit.lua", "actor.lua";
    RENEW = "renew.lua", "actor.lua";
    TOUCH = "touch.lua", "actor.lua";
    UPDATE_SPEC = "update_spec.lua", "actor.lua";
    MARK_DELETED = "mark_deleted.lua", "actor.lua", "update_spec.lua";
    REMOVE = "remove.lua", "actor.lua";
    LIST = "list.lua", "scan.lua", "tail.lua";
    LOG_TAIL = "log_tail.lua", "scan.lua", "tail.lua";
    LOG_BEFORE = "log_before.lua", "scan.lua", "undo.lua";
    EXPIRED = "expired.lua";
    END_LEASES = "end_leases.lua", "actor.lua";
    DELETIONS = "deletions.lua";
    REPORT_WORKER = "report_worker.lua", "worker.lua";
    CLAIM = "claim.lua", "worker.lua";
    RELEASE = "release.lua", "worker.lua";
    REMOVE_WORKER = "remove_worker.lua", "worker.lua";
    POOLS = "pools.lua";
    WORKERS = "workers.lua";
    RENEW_NODE = "renew_node.lua";
    NODES = "nodes.lua";
    REMOVE_NODE = "remove_node.lua";
    GET_DOCUMENT = "get_document.lua";
    PUT_DOCUMENT = "put_document.lua";
    DOCUMENTS = "documents.lua";
}
