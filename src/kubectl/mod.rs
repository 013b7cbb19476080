//! `kubectl ate`: the verbs that plain kubectl has no word for.

/// Entry point of `kubectl-ate`.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
