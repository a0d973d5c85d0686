# docker build -t ofa-stream .
FROM rust:1.95-bookworm AS build
# libclang is for the database of tuned kernels, nasm for the vector code of the JPEG decoder.
RUN apt-get update && apt-get install -y --no-install-recommends libclang-dev nasm && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
# The caches keep what is built and fetched between builds of the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build/target \
    cargo build --locked --profile dist --features tls,persistence && cp target/dist/ofa-stream /ofa-stream

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libvulkan1 mesa-vulkan-drivers \
    && rm -rf /var/lib/apt/lists/* && useradd --system --uid 10001 --home /app ofa
WORKDIR /app
COPY --from=build /ofa-stream /usr/local/bin/
COPY pipeline.toml ./
COPY models models
COPY testdata/demo testdata/demo
# What operators change is kept here: mount a volume to have it outlive the container.
RUN install -d -o ofa -m 700 .ofa-stream
VOLUME /app/.ofa-stream
# Kernels that were tuned for a GPU too.
ENV XDG_CACHE_HOME=/app/.ofa-stream/cache
# The settings file listens on loopback, which nothing outside of the container reaches.
ENV OFA_STREAM__TELEMETRY__LISTEN=0.0.0.0:9464
USER ofa
EXPOSE 9464
ENTRYPOINT ["ofa-stream"]
CMD ["run"]
