# The image of all components: `ate` is its entrypoint, the first argument says which. As executor of a worker it needs runsc
# and nft, which are there too.
#
#   make docker-build IMG=registry.example/ate:0.1.0
#
# e2e/image.sh makes the same without a container engine.

FROM golang:1.26-bookworm AS runsc
# As e2e/setup.sh has it: the version is compiled in, because a restore compares it.
ARG RUNSC_VERSION=release-20260905.0
ARG RUNSC_MODULE=gvisor.dev/gvisor/runsc@v0.0.0-20260905035102-160fafc42237
RUN CGO_ENABLED=0 GOBIN=/out go install -trimpath \
    -ldflags "-s -w -X gvisor.dev/gvisor/runsc/version.version=${RUNSC_VERSION}" "${RUNSC_MODULE}"

FROM rust:1-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY src src
COPY e2e/main.rs e2e/main.rs
COPY e2e/bench/api/main.rs e2e/bench/api/main.rs
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin ate && install -D target/release/ate /out/ate

# nft with the libraries that distroless/cc does not have.
FROM debian:bookworm-slim AS nft
RUN apt-get update && apt-get install -y --no-install-recommends nftables
RUN libraries=/out/usr/lib/$(uname -m)-linux-gnu && mkdir -p /out/usr/sbin "$libraries" && cp /usr/sbin/nft /out/usr/sbin/ && \
    ldd /usr/sbin/nft | grep -o '/[^ ]*' | grep -vE '/(libc|libm|ld-linux[^/]*)\.so' | xargs -I '{}' cp -L '{}' "$libraries"

FROM gcr.io/distroless/cc-debian12
COPY --from=nft /out /
COPY --from=runsc /out/runsc /usr/local/bin/runsc
COPY --from=build /out/ate /usr/local/bin/ate
# Executors and node agents, which need root, say so in their manifests.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/ate"]
