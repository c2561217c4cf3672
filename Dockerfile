# syntax=docker/dockerfile:1
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches make a second build quick; the binary is copied out, because a cache is no part of the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin contextd && cp target/release/contextd /contextd

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates tzdata \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin contextd \
    && install --directory --owner 10001 --group 10001 /var/lib/contextd
COPY --from=build /contextd /usr/local/bin/contextd
COPY config/production.toml /etc/contextd/production.toml
USER 10001:10001
ENV CONTEXTD_HTTP__LISTEN=0.0.0.0:9464
# Contents of documents: a volume that all workers share, or a bucket (s3://BUCKET/PREFIX).
ENV CONTEXTD_CONTENT__URL=/var/lib/contextd/objects
ENV CONTEXTD_CONTENT__ARCHIVE_URL=/var/lib/contextd/archive
# The copy of the audit chain: best on other storage than MongoDB's.
ENV CONTEXTD_AUDIT__URL=/var/lib/contextd/audit
VOLUME /var/lib/contextd
EXPOSE 9464
# /live says whether the process makes progress. Readiness is no matter of this check: a worker that waits for Redis must not be restarted.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9464 && printf 'GET /live HTTP/1.0\\r\\n\\r\\n' >&3 && IFS= read -r line <&3 && [[ $line == *' 200 '* ]]"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["contextd"]
CMD ["--config", "/etc/contextd/production.toml", "run"]
