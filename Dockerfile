# docker build -t ofa-stream .
FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
# The dependencies alone first, so that a change of our own code does not build them again.
RUN mkdir src benches && echo 'fn main() {}' | tee src/main.rs benches/forward.rs benches/pipeline.rs && touch src/lib.rs \
    && cargo build --profile dist --features tls && rm -r src benches
COPY . .
RUN touch src/lib.rs src/main.rs && cargo build --profile dist --features tls

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libvulkan1 mesa-vulkan-drivers \
    && rm -rf /var/lib/apt/lists/* && useradd --system --home /app ofa
WORKDIR /app
COPY --from=build /build/target/dist/ofa-stream /usr/local/bin/
COPY pipeline.toml ./
COPY models models
COPY testdata/demo testdata/demo
USER ofa
EXPOSE 9464
ENTRYPOINT ["ofa-stream"]
CMD ["run"]
