// The Verilated engine as a shared library. The memory behind its AXI4 port and the AXI4-Lite master are here, so that
// nothing crosses the language border every cycle. Memory belongs to the caller and is mapped at physical addresses.
//
// Random waits: with `stall` of 256 probability a channel is not ready (or has nothing) in a cycle, from a seeded generator.
// Protocol violations of the engine set bits of `violations`; they are its errors, not the memory's.
#include <cstdint>
#include <cstring>
#include <deque>
#include <vector>

#include "Vengine.h"
#include "verilated.h"

namespace {

enum Violation : uint32_t {
    ADDRESS_UNSTABLE = 1,    // AR or AW changed before it was accepted
    CROSSES_4K = 2,          // a burst crosses a 4 KiB border
    TOO_MANY = 4,            // more reads outstanding than promised
    WRITE_DATA = 8,          // WLAST in the wrong place, or W changed before it was accepted
    LITE_LOST = 16,          // an AXI4-Lite access was not answered
    BURST_FORM = 32,         // not INCR, not 16 bytes a beat, not aligned, more than 16 beats
};

constexpr unsigned MAX_OUTSTANDING = 8;

struct Region {
    uint64_t base, size;
    uint8_t *bytes;
    bool faulty;
};

struct Read {
    uint64_t address;
    unsigned beats;
    uint64_t ready_at;
};

struct Engine {
    VerilatedContext context;
    Vengine model{&context, "engine"};
    std::vector<Region> regions;
    std::deque<Read> reads;
    uint64_t cycle = 0, random_state = 0;
    uint64_t read_beats = 0, write_beats = 0;
    unsigned latency = 40, stall = 0;
    bool holds_reads = false;        // a hang of the memory: no read is answered
    uint32_t violations = 0;
    // Write channel.
    std::deque<uint64_t> addresses;
    std::deque<unsigned> lengths;
    unsigned beat = 0;
    struct Beat { uint8_t bytes[16]; uint16_t strobe; bool last; };
    std::deque<Beat> beats;
    unsigned responses = 0, bad_responses = 0;
    // What the engine showed in the cycle before, to see that it keeps it until it is accepted.
    bool ar_waits = false, aw_waits = false, w_waits = false;
    uint64_t ar_address = 0, aw_address = 0;
    uint8_t w_bytes[16] = {};

    unsigned random() {
        random_state ^= random_state << 13;
        random_state ^= random_state >> 7;
        random_state ^= random_state << 17;
        return random_state >> 20 & 0xff;
    }
    bool waits() { return stall && random() < stall; }

    uint8_t *at(uint64_t address, unsigned size, bool &faulty) {
        for (auto &region : regions)
            if (address >= region.base && address + size <= region.base + region.size) {
                faulty = region.faulty;
                return region.bytes + (address - region.base);
            }
        faulty = true;
        return nullptr;
    }

    void check_burst(uint64_t address, unsigned length, unsigned size, unsigned burst) {
        if ((address & 4095) + (length + 1) * 16 > 4096) violations |= CROSSES_4K;
        if (size != 4 || burst != 1 || (address & 15) || length > 15) violations |= BURST_FORM;
    }

    void write_back() {
        while (!addresses.empty() && !beats.empty()) {
            bool faulty = false;
            uint8_t *target = at(addresses.front() + 16 * beat, 16, faulty);
            Beat &data = beats.front();
            if (target && !faulty)
                for (int i = 0; i < 16; i++)
                    if (data.strobe >> i & 1) target[i] = data.bytes[i];
            bool last = beat == lengths.front();
            if (data.last != last) violations |= WRITE_DATA;
            beats.pop_front();
            write_beats++;
            if (faulty) bad_responses = 1;
            if (last) {
                addresses.pop_front();
                lengths.pop_front();
                responses++;
                beat = 0;
            } else
                beat++;
        }
    }

    void tick() {
        model.m_axi_memory_arready = reads.size() < MAX_OUTSTANDING && !waits();
        bool answers = !reads.empty() && !holds_reads && cycle >= reads.front().ready_at && !waits();
        model.m_axi_memory_rvalid = answers;
        if (answers) {
            bool faulty = false;
            uint8_t *source = at(reads.front().address, 16, faulty);
            if (source)
                memcpy(&model.m_axi_memory_rdata[0], source, 16);
            else
                memset(&model.m_axi_memory_rdata[0], 0xa5, 16);
            model.m_axi_memory_rresp = faulty ? 2 : 0;
            model.m_axi_memory_rlast = reads.front().beats == 1;
        }
        model.m_axi_memory_awready = addresses.size() < 4 && !waits();
        model.m_axi_memory_wready = beats.size() < 8 && !waits();
        model.m_axi_memory_bvalid = responses > 0 && !waits();
        model.m_axi_memory_bresp = bad_responses ? 2 : 0;
        model.ap_clk = 0;
        model.eval();
        bool reset = !model.ap_rst_n;
        bool ar = model.m_axi_memory_arvalid && model.m_axi_memory_arready && !reset;
        bool aw = model.m_axi_memory_awvalid && model.m_axi_memory_awready && !reset;
        bool w = model.m_axi_memory_wvalid && model.m_axi_memory_wready && !reset;
        bool r = answers && model.m_axi_memory_rready && !reset;
        bool b = model.m_axi_memory_bvalid && model.m_axi_memory_bready && !reset;
        uint64_t ar_now = uint64_t(model.m_axi_memory_arlen) << 32 | model.m_axi_memory_araddr;
        uint64_t aw_now = uint64_t(model.m_axi_memory_awlen) << 32 | model.m_axi_memory_awaddr;
        if (!reset) {
            if (ar_waits && (!model.m_axi_memory_arvalid || ar_now != ar_address)) violations |= ADDRESS_UNSTABLE;
            if (aw_waits && (!model.m_axi_memory_awvalid || aw_now != aw_address)) violations |= ADDRESS_UNSTABLE;
            if (w_waits && (!model.m_axi_memory_wvalid || memcmp(w_bytes, &model.m_axi_memory_wdata[0], 16)))
                violations |= WRITE_DATA;
        }
        ar_waits = model.m_axi_memory_arvalid && !ar && !reset;
        aw_waits = model.m_axi_memory_awvalid && !aw && !reset;
        w_waits = model.m_axi_memory_wvalid && !w && !reset;
        ar_address = ar_now;
        aw_address = aw_now;
        memcpy(w_bytes, &model.m_axi_memory_wdata[0], 16);
        if (ar) {
            check_burst(model.m_axi_memory_araddr, model.m_axi_memory_arlen, model.m_axi_memory_arsize,
                        model.m_axi_memory_arburst);
            reads.push_back({model.m_axi_memory_araddr, model.m_axi_memory_arlen + 1u, cycle + 1 + latency});
            if (reads.size() > MAX_OUTSTANDING) violations |= TOO_MANY;
        }
        if (aw) {
            check_burst(model.m_axi_memory_awaddr, model.m_axi_memory_awlen, model.m_axi_memory_awsize,
                        model.m_axi_memory_awburst);
            addresses.push_back(model.m_axi_memory_awaddr);
            lengths.push_back(model.m_axi_memory_awlen);
        }
        if (w) {
            Beat data;
            memcpy(data.bytes, &model.m_axi_memory_wdata[0], 16);
            data.strobe = model.m_axi_memory_wstrb;
            data.last = model.m_axi_memory_wlast;
            beats.push_back(data);
        }
        if (r) {
            read_beats++;
            Read &read = reads.front();
            read.address += 16;
            if (--read.beats == 0) reads.pop_front();
        }
        if (b) {
            responses--;
            bad_responses = 0;
        }
        model.ap_clk = 1;
        model.eval();
        write_back();
        cycle++;
    }

    void reset(unsigned cycles) {
        model.ap_rst_n = 0;
        reads.clear();
        addresses.clear();
        lengths.clear();
        beats.clear();
        responses = bad_responses = beat = 0;
        ar_waits = aw_waits = w_waits = false;
        for (unsigned i = 0; i < cycles; i++) tick();
        model.ap_rst_n = 1;
    }
};

constexpr int LITE_TIMEOUT = 1000;

}  // namespace

extern "C" {

Engine *engine_new() {
    auto *engine = new Engine;
    auto &m = engine->model;
    m.s_axi_control_awvalid = m.s_axi_control_wvalid = m.s_axi_control_arvalid = 0;
    m.s_axi_control_bready = m.s_axi_control_rready = 0;
    engine->reset(8);
    return engine;
}

void engine_free(Engine *engine) { delete engine; }

void engine_reset(Engine *engine) { engine->reset(8); }

// Maps `size` bytes at `bytes` at physical address `base`; with `faulty`, accesses get an error response.
void engine_map(Engine *engine, uint64_t base, uint8_t *bytes, uint64_t size, int faulty) {
    engine->regions.push_back({base, size, bytes, faulty != 0});
}

void engine_unmap_all(Engine *engine) { engine->regions.clear(); }

// Latency of reads in cycles, probability of a wait of 256, seed of the waits, whether reads hang.
void engine_memory(Engine *engine, unsigned latency, unsigned stall, uint64_t seed, int holds_reads) {
    engine->latency = latency;
    engine->stall = stall;
    engine->random_state = seed * 0x9e3779b97f4a7c15ull + 88172645463325252ull;
    engine->holds_reads = holds_reads != 0;
}

int engine_write(Engine *engine, uint32_t offset, uint32_t value) {
    auto &m = engine->model;
    m.s_axi_control_awaddr = offset;
    m.s_axi_control_wdata = value;
    m.s_axi_control_wstrb = 15;
    m.s_axi_control_awvalid = m.s_axi_control_wvalid = m.s_axi_control_bready = 1;
    for (int i = 0; i < LITE_TIMEOUT; i++) {
        m.eval();
        bool aw = m.s_axi_control_awvalid && m.s_axi_control_awready;
        bool w = m.s_axi_control_wvalid && m.s_axi_control_wready;
        bool b = m.s_axi_control_bvalid;
        engine->tick();
        if (aw) m.s_axi_control_awvalid = 0;
        if (w) m.s_axi_control_wvalid = 0;
        if (b) {
            m.s_axi_control_bready = 0;
            return 0;
        }
    }
    engine->violations |= LITE_LOST;
    return -1;
}

int engine_read(Engine *engine, uint32_t offset, uint32_t *value) {
    auto &m = engine->model;
    m.s_axi_control_araddr = offset;
    m.s_axi_control_arvalid = m.s_axi_control_rready = 1;
    for (int i = 0; i < LITE_TIMEOUT; i++) {
        m.eval();
        bool ar = m.s_axi_control_arvalid && m.s_axi_control_arready;
        bool r = m.s_axi_control_rvalid;
        *value = m.s_axi_control_rdata;
        engine->tick();
        if (ar) m.s_axi_control_arvalid = 0;
        if (r) {
            m.s_axi_control_rready = 0;
            return 0;
        }
    }
    engine->violations |= LITE_LOST;
    return -1;
}

// Runs up to `cycles` clock cycles, stopping early at an interrupt; returns how many ran.
uint64_t engine_run(Engine *engine, uint64_t cycles, int until_interrupt) {
    uint64_t i = 0;
    for (; i < cycles && !(until_interrupt && engine->model.irq); i++) engine->tick();
    return i;
}

int engine_interrupt(Engine *engine) { return engine->model.irq; }
uint32_t engine_violations(Engine *engine) { return engine->violations; }
uint64_t engine_read_beats(Engine *engine) { return engine->read_beats; }
uint64_t engine_write_beats(Engine *engine) { return engine->write_beats; }

}  // extern "C"
