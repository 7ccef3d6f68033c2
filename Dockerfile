# syntax=docker/dockerfile:1
# One image for every role: `docker run telecast standalone`, `… ingest`, `… edge`. docs/compose.md shows it at work.

# The same Debian release as the last stage: the program is linked with its C library.
FROM rust:1.95-slim-trixie AS build
WORKDIR /build

# Puts the list of dependencies into the program, where scanners of images look for it.
RUN cargo install --locked cargo-auditable@0.7.7

# Dependencies alone, with a program that does nothing: this layer is built anew only when Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && printf 'fn main() {}\n' > src/main.rs \
    && cp src/main.rs build.rs \
    && touch src/lib.rs \
    && cargo auditable build --release --locked

COPY build.rs ./
COPY src src
# There is no repository in here to ask: --version and ws_build_info name this commit.
ARG TELECAST_COMMIT=unknown
# Files keep the dates of the checkout, and cargo rebuilds what is newer than its last output. Without debug information the program
# has a quarter of its size. Symbols stay, because nobody can install them into this image, and a backtrace is unreadable without.
RUN touch build.rs src/lib.rs src/main.rs \
    && TELECAST_COMMIT="$TELECAST_COMMIT" cargo auditable build --release --locked \
    && strip --strip-debug target/release/telecast

# The C library, libgcc and root certificates: no shell, no package manager.
FROM gcr.io/distroless/cc-debian13:nonroot
ARG TELECAST_COMMIT=unknown
ARG TELECAST_VERSION=unknown
# The commit's date (RFC 3339), so that the same commit is the same image.
ARG TELECAST_CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Telecast" \
      org.opencontainers.image.description="Live metrics, relayed from many collectors to any number of browsers and programs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.url="https://github.com/telecast/telecast" \
      org.opencontainers.image.source="https://github.com/telecast/telecast" \
      org.opencontainers.image.documentation="https://github.com/telecast/telecast/blob/main/docs/install.md" \
      org.opencontainers.image.vendor="Telecast contributors" \
      org.opencontainers.image.version="$TELECAST_VERSION" \
      org.opencontainers.image.revision="$TELECAST_COMMIT" \
      org.opencontainers.image.created="$TELECAST_CREATED" \
      org.opencontainers.image.base.name="gcr.io/distroless/cc-debian13:nonroot"
COPY --from=build /build/target/release/telecast /usr/local/bin/telecast
COPY config /etc/telecast
ENV TELECAST_CONFIG_DIR=/etc/telecast \
    LOG_FORMAT=json
# As a number: Kubernetes cannot see that a name is not root.
USER 65532:65532
# Clients; collectors, and everything of a standalone node.
EXPOSE 3002 9090
# It drains on SIGTERM, which is what engines send.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["telecast", "status"]
ENTRYPOINT ["telecast"]
CMD ["standalone"]
