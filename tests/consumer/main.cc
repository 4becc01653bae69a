// A C++ user of the installed package: the handles in smart pointers, an append, and an error that is refused.
#include <hisa/hisa.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

static void check(hisa_status_t status) {
    if (status != HISA_OK) {
        std::fprintf(stderr, "%s: %s\n", hisa_status_string(status), hisa_last_error());
        std::exit(1);
    }
}

int main() {
    int major = 0;
    int minor = 0;
    int patch = 0;
    hisa_version(&major, &minor, &patch);
    if (major != HISA_VERSION_MAJOR || minor != HISA_VERSION_MINOR || patch != HISA_VERSION_PATCH) {
        std::fprintf(stderr, "the library that runs is %d.%d.%d, not that of the headers\n", major, minor, patch);
        return 1;
    }

    hisa_comm_t *raw_comm = nullptr;
    check(hisa_comm_create_self(&raw_comm));
    const std::unique_ptr<hisa_comm_t, decltype(&hisa_comm_destroy)> comm(raw_comm, hisa_comm_destroy);

    hisa_index_config_t config;
    hisa_index_config_init(&config);
    config.backend = HISA_BACKEND_CPU;
    config.capacity = 1000;
    hisa_index_t *raw_index = nullptr;
    check(hisa_index_create(&config, comm.get(), &raw_index));
    const std::unique_ptr<hisa_index_t, decltype(&hisa_index_destroy)> index(raw_index, hisa_index_destroy);

    const std::vector<std::uint8_t> keys(static_cast<std::size_t>(1000 * config.head_dim), 0x38); // all 1.0
    const std::vector<float> scales(1000, 1.0f);
    check(hisa_index_append(index.get(), 0, 1000, keys.data(), scales.data(), HISA_KEYS_REPLICATED, nullptr));
    if (hisa_index_append(index.get(), 0, 1, keys.data(), scales.data(), HISA_KEYS_REPLICATED, nullptr) !=
        HISA_ERR_CAPACITY) {
        std::fprintf(stderr, "an append to a full index was not refused\n");
        return 1;
    }
    std::int64_t length = 0;
    check(hisa_index_length(index.get(), 0, &length));
    std::printf("hisa %d.%d.%d: %lld tokens; then: %s\n", major, minor, patch, static_cast<long long>(length),
                hisa_last_error());
    return length == 1000 ? 0 : 1;
}
