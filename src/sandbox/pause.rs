//! The root of a sandbox that holds several containers: a process that does nothing.
//!
//! It is a static executable of a few hundred bytes that we write ourselves: it needs no image, and unlike a copy
//! of our own binary it is the same in every release, so that snapshots outlive upgrades.

use super::{Container, Error};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// `loop { pause() }`
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[
    0xb8, 0x22, 0x00, 0x00, 0x00, // mov eax, 34
    0x0f, 0x05, // syscall
    0xeb, 0xf7, // jmp to the mov
];
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;

/// `loop { ppoll(NULL, 0, NULL, NULL) }`
#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[
    0x00, 0x00, 0x80, 0xd2, // mov x0, 0
    0x01, 0x00, 0x80, 0xd2, // mov x1, 0
    0x02, 0x00, 0x80, 0xd2, // mov x2, 0
    0x03, 0x00, 0x80, 0xd2, // mov x3, 0
    0x28, 0x09, 0x80, 0xd2, // mov x8, 73
    0x01, 0x00, 0x00, 0xd4, // svc 0
    0xfa, 0xff, 0xff, 0x17, // b to the start
];
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

const ELF_HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;
const LOAD_ADDRESS: u64 = 0x40_0000;
const PAGE: u64 = 0x1000;

/// The executable: ELF header, one program header that loads the whole file, code (System V ABI, chapter 4 and 5).
fn executable() -> Vec<u8> {
    let headers = u64::from(ELF_HEADER + PROGRAM_HEADER);
    let size = headers + CODE.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut put = |bytes: &[u8]| elf.extend_from_slice(bytes);
    put(&2u16.to_le_bytes()); // an executable
    put(&MACHINE.to_le_bytes());
    put(&1u32.to_le_bytes());
    put(&(LOAD_ADDRESS + headers).to_le_bytes()); // entry
    put(&u64::from(ELF_HEADER).to_le_bytes()); // where the program headers are
    put(&0u64.to_le_bytes()); // no sections
    put(&0u32.to_le_bytes());
    for value in [ELF_HEADER, PROGRAM_HEADER, 1, 0, 0, 0] {
        put(&value.to_le_bytes());
    }
    put(&1u32.to_le_bytes()); // load
    put(&5u32.to_le_bytes()); // read, execute
    put(&0u64.to_le_bytes());
    put(&LOAD_ADDRESS.to_le_bytes());
    put(&LOAD_ADDRESS.to_le_bytes());
    put(&size.to_le_bytes());
    put(&size.to_le_bytes());
    put(&PAGE.to_le_bytes());
    put(CODE);
    elf
}

/// The pause container, with its root filesystem in `dir` (made if it is not there).
pub(super) fn container(dir: &Path) -> Result<Container, Error> {
    let file = dir.join("pause");
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&file, executable()))
        .and_then(|()| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)))
        .map_err(Error::io(format!("cannot write {}", file.display())))?;
    Ok(Container {
        name: "pause".into(),
        rootfs: dir.to_owned(),
        args: vec!["/pause".into()],
        env: vec![],
        cwd: "/".into(),
        uid: 65535,
        gid: 65535,
        additional_gids: vec![],
        read_only_rootfs: true,
        capabilities: BTreeSet::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn it_runs_until_it_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        container(dir.path()).unwrap();
        let mut child = Command::new(dir.path().join("pause"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let stat = format!("/proc/{}/stat", child.id());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        // It sleeps in pause(2): neither gone nor spinning.
        while !std::fs::read_to_string(&stat).unwrap().contains(") S ") {
            assert!(
                std::time::Instant::now() < deadline,
                "does not come to rest"
            );
            std::thread::yield_now();
        }
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
