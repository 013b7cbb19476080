//! Which image the workers of a pool run.

/// What the installation says of workers' images.
#[derive(Clone, Debug, Default)]
pub struct WorkerImages {
    /// Of pools that name none, or one that is replaced.
    pub own: String,
    /// What pools may name as `ateomImage` beside [`WorkerImages::own`]: beginnings of images, to a `/`, `:` or `@`.
    pub allowed: Vec<String>,
    /// What is replaced, beside what the reference calls its executors: beginnings as well.
    pub replaced: Vec<String>,
}

/// The image of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::controller) struct Chosen {
    /// What its workers run.
    pub(in crate::controller) image: String,
    /// What the pool names and its workers do not run.
    pub(in crate::controller) instead_of: Option<String>,
}

/// What the reference's executors are called: `.../ateom-gvisor:v1`, `.../ateom-microvm-5f0a@sha256:...`.
const REFERENCE: &str = "ateom";

impl WorkerImages {
    /// The image for what a pool names, or why there is none.
    pub(in crate::controller) fn choose(&self, named: Option<&str>) -> Result<Chosen, String> {
        let of = |image: &str, instead_of: Option<&str>| {
            Ok(Chosen {
                image: image.to_owned(),
                instead_of: instead_of.map(str::to_owned),
            })
        };
        let among = |all: &[String], image: &str| all.iter().any(|start| begins(image, start));
        match named.filter(|image| !image.is_empty()) {
            None => of(&self.own, None),
            Some(image) if image == self.own || among(&self.allowed, image) => of(image, None),
            Some(image) if is_reference(image) || among(&self.replaced, image) => {
                of(&self.own, Some(image))
            }
            Some(image) => Err(format!(
                "spec.ateomImage: this installation does not let pools name {image:?}; leave it out, or have the operator allow it (ate controller --allow-worker-image)"
            )),
        }
    }
}

fn begins(image: &str, start: &str) -> bool {
    image.strip_prefix(start).is_some_and(|rest| {
        rest.is_empty() || start.ends_with('/') || rest.starts_with(['/', ':', '@'])
    })
}

/// An executor of the reference, which does not speak our node protocol.
fn is_reference(image: &str) -> bool {
    let undigested = image.split('@').next().unwrap_or(image);
    let last = undigested.rsplit('/').next().unwrap_or(undigested);
    let name = last.split(':').next().unwrap_or(last);
    name.strip_prefix(REFERENCE)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_for_what_is_named() {
        let images = WorkerImages {
            own: "example.org/ate:1".into(),
            allowed: vec!["example.org/executors".into()],
            replaced: vec!["example.com/old/".into()],
        };
        let chosen = |named| {
            let chosen = images.choose(named)?;
            Ok::<_, String>((chosen.image, chosen.instead_of.is_some()))
        };
        let own = |replaced| Ok(("example.org/ate:1".to_owned(), replaced));
        assert_eq!(chosen(None), own(false));
        assert_eq!(chosen(Some("")), own(false));
        assert_eq!(chosen(Some("example.org/ate:1")), own(false));
        let allowed = "example.org/executors/mine@sha256:00";
        assert_eq!(chosen(Some(allowed)), Ok((allowed.to_owned(), false)));
        for reference in [
            "ateom@sha256:00",
            "localhost:5001/ateom-gvisor:head",
            "ghcr.io/x/substrate/cmd/ateom-gvisor-1f@sha256:00",
            "example.com/old/thing:2",
        ] {
            assert_eq!(chosen(Some(reference)), own(true), "{reference}");
        }
        for other in [
            "example.org/executors-of-somebody:1",
            "example.org/ate:2",
            "example.org/ateometer",
            "example.org/ateom-gvisor/trojan",
        ] {
            let why = chosen(Some(other)).unwrap_err();
            assert!(why.contains("--allow-worker-image"), "{why}");
        }
    }
}
