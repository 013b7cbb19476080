//! What can go wrong with networks.

use std::path::PathBuf;

/// Why a network call failed. All may be worth another try but [`Error::Invalid`]; a slot whose network cannot be
/// brought back to its resting state is not to be used again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's input.
    #[error("{0}")]
    Invalid(String),
    /// The kernel refused a change or a question about links, addresses or routes.
    #[error("cannot {what}")]
    Netlink {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// `nft` refused a ruleset.
    #[error("nft failed: {message}; is nftables installed, and has the kernel nf_tables with NAT?")]
    Nft {
        /// The first line that it said.
        message: String,
    },
    /// `nft` cannot be started or did not end in time.
    #[error("cannot run nft; is nftables installed?")]
    NoNft {
        /// Why.
        source: std::io::Error,
    },
    /// A link that should exist does not.
    #[error("there is no link {name}")]
    NoLink {
        /// Its name.
        name: String,
    },
    /// A network namespace cannot be made or entered.
    #[error("cannot use the network namespace {}", path.display())]
    Namespace {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another system call failed.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Error {
    /// For `map_err`: says what was tried.
    pub(super) fn netlink(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
        let what = what.into();
        move |source| Error::Netlink { what, source }
    }

    /// For `map_err`: says what was tried.
    pub(super) fn io<E: Into<std::io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
        let what = what.into();
        move |source| Error::Io {
            what,
            source: source.into(),
        }
    }
}
