//! Certificates of the components, and of the person at the keyboard.

use super::layout::Layout;
use super::{Error, Options};
use crate::identity::files;
use crate::identity::{Authority, LeafRequest, Usage, kubeconfig};
use crate::telemetry::chain;
use std::time::{Duration, SystemTime};

/// Group of our own processes.
const COMPONENT: &str = "ate:component";
/// Group of whoever may do everything.
const MASTERS: &str = "system:masters";

/// How often certificates are looked at: far more often than one is due.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// Writes what is about to expire, for ever. Whoever uses it sees that its files changed.
pub(super) async fn keep(layout: &Layout, options: &Options) {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        if let Err(error) = write_all(layout, options, SystemTime::now()) {
            tracing::warn!(error = chain(&error), "certificates are not renewed");
        }
    }
}

/// Writes what is missing or about to expire at `now`, and the kubeconfig.
pub(super) fn write_all(layout: &Layout, options: &Options, now: SystemTime) -> Result<(), Error> {
    let pki = layout.pki();
    let authority = Authority::load_or_create(&pki)?;
    for name in ["apiserver", "atelet", "controller", "router"] {
        let ip = options.api.ip().to_string();
        let request = LeafRequest::new(name, Usage::Both).group(COMPONENT).sans([
            name,
            "localhost",
            ip.as_str(),
        ]);
        authority.leaf_in_at(&pki, &request, now)?;
    }
    let request = LeafRequest::new("admin", Usage::Client).group(MASTERS);
    let admin = authority.leaf_in_at(&pki, &request, now)?;
    let server = format!("https://{}", options.api);
    let config = kubeconfig(&server, authority.certificate(), &admin);
    if files::read(&layout.kubeconfig())?.as_ref() == Some(&config) {
        return Ok(());
    }
    Ok(files::write(
        &layout.kubeconfig(),
        files::SECRET_MODE,
        config.as_bytes(),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::LEAF_VALIDITY;
    use std::collections::BTreeMap;
    use std::path::Path;

    /// Contents of a directory's files.
    fn contents(dir: &Path) -> BTreeMap<String, String> {
        let read = |entry: std::io::Result<std::fs::DirEntry>| {
            let path = entry.unwrap().path();
            let name = path.file_name()?.to_string_lossy().into_owned();
            path.is_file()
                .then(|| (name, std::fs::read_to_string(&path).unwrap()))
        };
        std::fs::read_dir(dir).unwrap().filter_map(read).collect()
    }

    #[test]
    fn leaves_are_renewed_long_before_they_expire_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::for_tests(dir.path());
        let layout = Layout::create(&options).unwrap();
        let began = SystemTime::now();
        let at = |now: SystemTime| {
            write_all(&layout, &options, now).unwrap();
            (contents(&layout.pki()), contents(&layout.dir))
        };
        let first = at(began);
        assert_eq!(at(began + LEAF_VALIDITY / 2), first);
        let due = began + LEAF_VALIDITY * 2 / 3 + LOOK_AGAIN;
        let second = at(due);
        for (name, before) in &first.0 {
            let kept = name.starts_with("ca.");
            assert_eq!(second.0[name] == *before, kept, "{name}");
        }
        assert_ne!(second.1["kubeconfig"], first.1["kubeconfig"]);
        assert_eq!(at(due + LEAF_VALIDITY / 2), second);
    }
}
