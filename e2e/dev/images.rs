//! Ordinary images, from a registry that asks for a password.

use super::harness::{Dev, PATIENCE, eventually};
use crate::parts::look::text;
use crate::parts::registry::{PASSWORD, Registry};
use std::path::Path;
use std::process::Command;

/// Servers as anybody writes them; they know nothing of sleeping.
const NODE: &str = r#"
let memory = 0;
require("http").createServer((request, response) => {
  if (request.url !== "/healthz") memory += 1;
  const { GREETING } = process.env;
  response.end(JSON.stringify({ memory, cwd: process.cwd(), uid: process.getuid(), greeting: GREETING }));
}).listen(8080);
"#;
const PYTHON: &str = r#"
import http.server, json, os

memory = 0

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global memory
        memory += self.path != "/healthz"
        says = {"memory": memory, "cwd": os.getcwd(), "uid": os.getuid(), "greeting": os.environ["GREETING"]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(says).encode())

http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"#;

/// Builds an image of two layers, the interpreter of this machine with its libraries and the server, as a Dockerfile would, and pushes it.
const BUILD: &str = r#"
set -euo pipefail
work=$1 registry=$2 name=$3 program=$(command -v "$4") ask=$5 server=$6
library=$([ -z "$ask" ] || "$program" -c "$ask")
mkdir -p "$work/base/tmp" "$work/base/etc" "$work/app/srv"
echo 'app:x:1000:1001::/srv:/bin/false' >"$work/base/etc/passwd"
copy() { mkdir -p "$work/base$(dirname "$1")"; cp -rL "$1" "$work/base$1"; }
copy "$program"
{ ldd "$program"; [ -z "$library" ] || find "$library" -name '*.so' -exec ldd {} +; } | grep -o '/[^ ]*' | grep -v ':$' | sort -u |
  while read -r file; do [ -e "$work/base$file" ] || copy "$file"; done
[ -z "$library" ] || copy "$library"
cp "$server" "$work/app/srv/"
for layer in base app; do tar -C "$work/$layer" --owner=0 --group=0 -czf "$work/$layer.tgz" .; done
crane append --insecure -f "$work/base.tgz" -f "$work/app.tgz" -t "$registry/$name:base"
crane mutate --insecure "$registry/$name:base" -t "$registry/$name:latest" --set-platform linux/amd64 \
  --entrypoint "$program" --cmd "$(basename "$server")" --env GREETING=hello --user app --workdir /srv
echo "image=$registry/$name@$(crane digest --insecure "$registry/$name:latest")"
"#;

fn build(
    registry: &Registry,
    dir: &Path,
    name: &str,
    program: &str,
    ask: &str,
    server: &str,
) -> String {
    let (work, file) = (dir.join(name), dir.join(format!("{name}-server")));
    std::fs::create_dir(&work).unwrap();
    std::fs::write(&file, server).unwrap();
    let config = registry.docker_config(PASSWORD).to_string();
    std::fs::write(work.join("config.json"), config).unwrap();
    let output = Command::new("bash")
        .args(["-c", BUILD, "build"])
        .args([
            work.to_str().unwrap(),
            &registry.host(),
            name,
            program,
            ask,
            file.to_str().unwrap(),
        ])
        .env("DOCKER_CONFIG", &work)
        .output()
        .unwrap();
    let said = text(&output.stdout);
    let image = said.lines().find_map(|line| line.strip_prefix("image="));
    image
        .unwrap_or_else(|| panic!("{said}\n{}", text(&output.stderr)))
        .to_owned()
}

#[test]
fn node_and_python_servers_of_a_private_registry_run_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let images = [
        (
            "node",
            build(&registry, dir.path(), "node", "node", "", NODE),
        ),
        (
            "python",
            build(
                &registry,
                dir.path(),
                "python",
                "/usr/bin/python3",
                "import sysconfig; print(sysconfig.get_path('stdlib'))",
                PYTHON,
            ),
        ),
    ];
    let config = dir.path().join("docker.json");
    let write = |password: &str| {
        std::fs::write(&config, registry.docker_config(password).to_string()).unwrap()
    };
    write("hunter3-wrong");
    let dev = Dev::start(&["--docker-config", config.to_str().unwrap()]);
    dev.apply("apiVersion: ate.dev/v1alpha1\nkind: WorkerPool\nmetadata: {name: pool, namespace: default}\nspec: {replicas: 2}\n");
    for (name, image) in &images {
        dev.apply(&dev.template(name, image));
    }
    let refused = eventually("the template says why", || {
        let said = dev.template_says("node")?;
        said.starts_with("ImageUnavailable").then_some(said)
    });
    let with = format!("with the credentials of {}", config.display());
    assert!(
        refused.contains("does not allow pulling") && refused.contains(&with),
        "{refused}"
    );
    let described = dev.kubectl(&["describe", "actortemplate", "node"]);
    assert!(described.contains(&with), "{described}");

    // No restart: the file is read at each pull.
    write(PASSWORD);
    let limit = format!("--timeout={}s", PATIENCE.as_secs());
    for (name, _) in &images {
        dev.kubectl(&[
            "wait",
            "--for=condition=Ready",
            &format!("actortemplate/{name}"),
            &limit,
        ]);
        dev.actor(name, name);
        let visit = || serde_json::from_str::<serde_json::Value>(&dev.get(name, "/")).unwrap();
        let says = |memory: u64| serde_json::json!({"memory": memory, "cwd": "/srv", "uid": 1000, "greeting": "hello"});
        assert_eq!(visit(), says(1), "{name}");
        dev.plugin(&["suspend", name]);
        assert_eq!(visit(), says(2), "{name}: it does not know that it slept");
    }
    for component in ["apiserver", "controller", "atelet", "router"] {
        let log = dev.path(&format!("lib/logs/{component}.log"));
        let log = std::fs::read_to_string(log).unwrap();
        assert!(!log.contains("hunter"), "{component}");
    }
}
