fn main() -> std::process::ExitCode {
    substrate::kubectl::main()
}
