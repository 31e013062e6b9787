# Two stages on Debian 12: build with the toolchain, run with the binary alone.
#   docker build -t headwater .
#   docker run -p 127.0.0.1:1883:1883 -p 127.0.0.1:6580:6580 -v headwater:/var/lib/headwater headwater
FROM rust:1.95.0-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends clang libclang-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The cache keeps RocksDB (about 13 minutes on two cores) from one build to the next; what is kept leaves it in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/target \
    CARGO_TARGET_DIR=/target cargo build --release --locked --bin headwater && cp /target/release/headwater /headwater

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --home-dir /var/lib/headwater --create-home headwater
COPY --from=build /headwater /usr/local/bin/headwater
USER headwater
VOLUME /var/lib/headwater
# MQTT and HTTP. Inside the container they listen on all addresses: what reaches them is decided by -p, so name the
# loopback address there (as above) unless the network is meant to come in.
EXPOSE 1883 6580
# kill -9 is equally safe, but SIGTERM (docker stop) drains first.
STOPSIGNAL SIGTERM
ENTRYPOINT ["headwater"]
CMD ["serve", "--data", "/var/lib/headwater/data", "--mqtt", "0.0.0.0:1883", "--http", "0.0.0.0:6580"]
