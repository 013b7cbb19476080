fn main() -> std::process::ExitCode {
    substrate::cli::main()
}
