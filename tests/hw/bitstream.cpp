// The far end of a chip's UART: sends the bytes of requests.hex (bit 8: the last of a request, whose reply is waited for) and prints
// the bytes that come back. CLK, RX, TX and DIVISOR are defined by bitstream.py.
#include <cstdio>

#include "Vtop.h"
#include "verilated.h"

int main(int argc, char** argv) {
    VerilatedContext context;
    context.commandArgs(argc, argv);
    context.randReset(2);  // registers and memories hold anything at first
    context.randSeed(1);
    Vtop chip{&context};
    int quiet = 0, waited = 0, at = -1, left = 0, before = 1;
    unsigned got = 0;
    const auto clock = [&] {
        chip.CLK = 0;
        chip.eval();
        chip.CLK = 1;
        chip.eval();
        const int line = chip.TX & 1;
        quiet = line ? quiet + 1 : 0;
        waited = line ? waited + 1 : 1000000;
        if (at < 0) {
            if (before && !line) at = 0, left = DIVISOR + DIVISOR / 2, got = 0;
        } else if (--left == 0) {
            got |= line << at;
            left = DIVISOR;
            if (at++ == 7) std::printf("%02x\n", got), at = -1;
        }
        before = line;
    };
    const auto hold = [&](int level, int cycles) {
        chip.RX = level;
        while (cycles-- > 0) clock();
    };
    hold(1, 1000);
    std::FILE* const requests = std::fopen("requests.hex", "r");
    if (!requests) return 1;
    unsigned word;
    while (std::fscanf(requests, "%x", &word) == 1) {
        hold(0, DIVISOR);
        for (int bit = 0; bit < 8; ++bit) hold(word >> bit & 1, DIVISOR);
        hold(1, DIVISOR);
        if (word >> 8) {
            for (waited = 0; waited < 100000;) clock();
            for (quiet = 0; quiet < 40 * DIVISOR;) clock();
        }
    }
    std::fclose(requests);
    chip.final();
    return 0;
}
