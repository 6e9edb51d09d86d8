// Behaviour of the Gowin primitives that Yosys ships as black boxes only, in the modes that synth_gowin infers and that
// contents.py, primitives.py and board.py ask for.
// Block RAM: Gowin UG285, "BSRAM & SSRAM User Guide"; multipliers: UG287, "DSP User Guide"; PLL: UG286, "Clock User Guide".
// Used to simulate synthesized netlists; never synthesized.

// A block RAM's initial contents: 64 parameters of w bits, the first word in the lowest bits of the first.
`define GOWIN_ROWS(w) \
    parameter [w-1:0] INIT_RAM_00 = 0; parameter [w-1:0] INIT_RAM_01 = 0; \
    parameter [w-1:0] INIT_RAM_02 = 0; parameter [w-1:0] INIT_RAM_03 = 0; \
    parameter [w-1:0] INIT_RAM_04 = 0; parameter [w-1:0] INIT_RAM_05 = 0; \
    parameter [w-1:0] INIT_RAM_06 = 0; parameter [w-1:0] INIT_RAM_07 = 0; \
    parameter [w-1:0] INIT_RAM_08 = 0; parameter [w-1:0] INIT_RAM_09 = 0; \
    parameter [w-1:0] INIT_RAM_0A = 0; parameter [w-1:0] INIT_RAM_0B = 0; \
    parameter [w-1:0] INIT_RAM_0C = 0; parameter [w-1:0] INIT_RAM_0D = 0; \
    parameter [w-1:0] INIT_RAM_0E = 0; parameter [w-1:0] INIT_RAM_0F = 0; \
    parameter [w-1:0] INIT_RAM_10 = 0; parameter [w-1:0] INIT_RAM_11 = 0; \
    parameter [w-1:0] INIT_RAM_12 = 0; parameter [w-1:0] INIT_RAM_13 = 0; \
    parameter [w-1:0] INIT_RAM_14 = 0; parameter [w-1:0] INIT_RAM_15 = 0; \
    parameter [w-1:0] INIT_RAM_16 = 0; parameter [w-1:0] INIT_RAM_17 = 0; \
    parameter [w-1:0] INIT_RAM_18 = 0; parameter [w-1:0] INIT_RAM_19 = 0; \
    parameter [w-1:0] INIT_RAM_1A = 0; parameter [w-1:0] INIT_RAM_1B = 0; \
    parameter [w-1:0] INIT_RAM_1C = 0; parameter [w-1:0] INIT_RAM_1D = 0; \
    parameter [w-1:0] INIT_RAM_1E = 0; parameter [w-1:0] INIT_RAM_1F = 0; \
    parameter [w-1:0] INIT_RAM_20 = 0; parameter [w-1:0] INIT_RAM_21 = 0; \
    parameter [w-1:0] INIT_RAM_22 = 0; parameter [w-1:0] INIT_RAM_23 = 0; \
    parameter [w-1:0] INIT_RAM_24 = 0; parameter [w-1:0] INIT_RAM_25 = 0; \
    parameter [w-1:0] INIT_RAM_26 = 0; parameter [w-1:0] INIT_RAM_27 = 0; \
    parameter [w-1:0] INIT_RAM_28 = 0; parameter [w-1:0] INIT_RAM_29 = 0; \
    parameter [w-1:0] INIT_RAM_2A = 0; parameter [w-1:0] INIT_RAM_2B = 0; \
    parameter [w-1:0] INIT_RAM_2C = 0; parameter [w-1:0] INIT_RAM_2D = 0; \
    parameter [w-1:0] INIT_RAM_2E = 0; parameter [w-1:0] INIT_RAM_2F = 0; \
    parameter [w-1:0] INIT_RAM_30 = 0; parameter [w-1:0] INIT_RAM_31 = 0; \
    parameter [w-1:0] INIT_RAM_32 = 0; parameter [w-1:0] INIT_RAM_33 = 0; \
    parameter [w-1:0] INIT_RAM_34 = 0; parameter [w-1:0] INIT_RAM_35 = 0; \
    parameter [w-1:0] INIT_RAM_36 = 0; parameter [w-1:0] INIT_RAM_37 = 0; \
    parameter [w-1:0] INIT_RAM_38 = 0; parameter [w-1:0] INIT_RAM_39 = 0; \
    parameter [w-1:0] INIT_RAM_3A = 0; parameter [w-1:0] INIT_RAM_3B = 0; \
    parameter [w-1:0] INIT_RAM_3C = 0; parameter [w-1:0] INIT_RAM_3D = 0; \
    parameter [w-1:0] INIT_RAM_3E = 0; parameter [w-1:0] INIT_RAM_3F = 0;
`define GOWIN_CONTENTS \
    {INIT_RAM_3F, INIT_RAM_3E, INIT_RAM_3D, INIT_RAM_3C, INIT_RAM_3B, INIT_RAM_3A, INIT_RAM_39, INIT_RAM_38, \
    INIT_RAM_37, INIT_RAM_36, INIT_RAM_35, INIT_RAM_34, INIT_RAM_33, INIT_RAM_32, INIT_RAM_31, INIT_RAM_30, \
    INIT_RAM_2F, INIT_RAM_2E, INIT_RAM_2D, INIT_RAM_2C, INIT_RAM_2B, INIT_RAM_2A, INIT_RAM_29, INIT_RAM_28, \
    INIT_RAM_27, INIT_RAM_26, INIT_RAM_25, INIT_RAM_24, INIT_RAM_23, INIT_RAM_22, INIT_RAM_21, INIT_RAM_20, \
    INIT_RAM_1F, INIT_RAM_1E, INIT_RAM_1D, INIT_RAM_1C, INIT_RAM_1B, INIT_RAM_1A, INIT_RAM_19, INIT_RAM_18, \
    INIT_RAM_17, INIT_RAM_16, INIT_RAM_15, INIT_RAM_14, INIT_RAM_13, INIT_RAM_12, INIT_RAM_11, INIT_RAM_10, \
    INIT_RAM_0F, INIT_RAM_0E, INIT_RAM_0D, INIT_RAM_0C, INIT_RAM_0B, INIT_RAM_0A, INIT_RAM_09, INIT_RAM_08, \
    INIT_RAM_07, INIT_RAM_06, INIT_RAM_05, INIT_RAM_04, INIT_RAM_03, INIT_RAM_02, INIT_RAM_01, INIT_RAM_00}

// 2048 bytes of 8 or 9 bits with two ports. An address is that of a bit among 16,384; a word begins where the low bits that would
// tell its bits apart are 0. Those enable bytes in a write of two or four of them.
// Outputs start at 0. Where a port writes it shows what it showed (WRITE_MODE 0), what is written (1), or what was there (2); of a
// word that the other port writes in the same cycle it reads anything: x.
module gowin_bsram #(
    parameter BYTE = 9, WIDTH_A = 36, WIDTH_B = 36, READ_MODE_A = 0, READ_MODE_B = 0, WRITE_MODE_A = 0, WRITE_MODE_B = 0,
    parameter RESET_MODE = "SYNC",
    parameter [2048*BYTE-1:0] CONTENTS = 0
) (
    input CLKA, CEA, WREA, OCEA, RESETA, input [13:0] ADA, input [35:0] DIA, output [35:0] DOA,
    input CLKB, CEB, WREB, OCEB, RESETB, input [13:0] ADB, input [35:0] DIB, output [35:0] DOB
);
    reg [2048*BYTE-1:0] bits = CONTENTS;
    wire [17:0] start_a, start_b, first_a, first_b;  // bits of the array: where a word that is read begins, and one that is written
    wire [35:0] mask_a, mask_b, what_a, what_b;
    gowin_bsram_port #(BYTE, WIDTH_A, WIDTH_B, READ_MODE_A, WRITE_MODE_A, RESET_MODE) a(
        .CLK(CLKA), .CE(CEA), .WRE(WREA), .OCE(OCEA), .RESET(RESETA), .AD(ADA), .DI(DIA), .DO(DOA),
        .start(start_a), .there(bits[start_a +: WIDTH_A]), .meets(CEB & WREB), .other(ADB),
        .first(first_a), .mask(mask_a), .what(what_a)
    );
    gowin_bsram_port #(BYTE, WIDTH_B, WIDTH_A, READ_MODE_B, WRITE_MODE_B, RESET_MODE) b(
        .CLK(CLKB), .CE(CEB), .WRE(WREB), .OCE(OCEB), .RESET(RESETB), .AD(ADB), .DI(DIB), .DO(DOB),
        .start(start_b), .there(bits[start_b +: WIDTH_B]), .meets(CEA & WREA), .other(ADA),
        .first(first_b), .mask(mask_b), .what(what_b)
    );
    // after the reads of the same edge
    integer i, j;
    always @(negedge CLKA) if (mask_a != 0) for (i = 0; i < WIDTH_A; i = i + 1) if (mask_a[i]) bits[first_a + i] = what_a[i];
    always @(negedge CLKB) if (mask_b != 0) for (j = 0; j < WIDTH_B; j = j + 1) if (mask_b[j]) bits[first_b + j] = what_b[j];
endmodule

module gowin_bsram_port #(
    parameter BYTE = 9, WIDTH = 36, OTHER = 36, READ_MODE = 0, WRITE_MODE = 0, RESET_MODE = "SYNC"
) (
    input CLK, CE, WRE, OCE, RESET, input [13:0] AD, input [35:0] DI, output [35:0] DO,
    output [17:0] start, input [WIDTH-1:0] there, input meets, input [13:0] other,
    output reg [17:0] first, output reg [35:0] mask, what
);
    function integer unused(input integer width);  // low bits of an address
        case (width)
            1: unused = 0;
            2: unused = 1;
            4: unused = 2;
            8, 9: unused = 3;
            16, 18: unused = 4;
            default: unused = 5;
        endcase
    endfunction
    localparam SHIFT = unused(WIDTH), COMMON = unused(WIDTH > OTHER ? WIDTH : OTHER);
    wire [35:0] enabled = WIDTH < 16 ? {36{1'b1}} :
        {{BYTE{AD[3]}}, {BYTE{AD[2]}}, {BYTE{AD[1]}}, {BYTE{AD[0]}}} & (WIDTH > 18 ? {36{1'b1}} : (36'd1 << WIDTH) - 36'd1);
    wire clash = meets & AD >> COMMON == other >> COMMON;
    reg [WIDTH-1:0] latch = 0, out = 0;
    wire clears = RESET_MODE == "ASYNC" & RESET;
    assign start = (AD >> SHIFT) * WIDTH;
    initial mask = 0;
    always @(posedge CLK, posedge clears)
        if (RESET) begin
            latch <= 0;
            out <= 0;
        end else begin
            if (OCE) out <= latch;
            if (CE & !(WRE & WRITE_MODE == 0))
                latch <= WRE & WRITE_MODE == 1 ? DI[WIDTH-1:0] : clash ? {WIDTH{1'bx}} : there;
        end
    always @(posedge CLK) begin
        mask <= CE & WRE ? enabled : 36'd0;
        first <= start;
        what <= DI;
    end
    assign DO = READ_MODE ? out : latch;
endmodule

// Memories that are only read.
module pROM(input CLK, CE, OCE, RESET, input [13:0] AD, output [31:0] DO);
    parameter READ_MODE = 1'b0;
    parameter BIT_WIDTH = 32;
    parameter RESET_MODE = "SYNC";
    `GOWIN_ROWS(256)
    wire [35:0] all_do;
    assign DO = all_do[31:0];
    gowin_bsram #(8, BIT_WIDTH, BIT_WIDTH, READ_MODE, READ_MODE, 0, 0, RESET_MODE, `GOWIN_CONTENTS) ram(
        .CLKA(CLK), .CEA(CE), .WREA(1'b0), .OCEA(OCE), .RESETA(RESET), .ADA(AD), .DIA(36'd0), .DOA(all_do),
        .CLKB(1'b0), .CEB(1'b0), .WREB(1'b0), .OCEB(1'b0), .RESETB(1'b0), .ADB(14'd0), .DIB(36'd0)
    );
endmodule
module pROMX9(input CLK, CE, OCE, RESET, input [13:0] AD, output [35:0] DO);
    parameter READ_MODE = 1'b0;
    parameter BIT_WIDTH = 36;
    parameter RESET_MODE = "SYNC";
    `GOWIN_ROWS(288)
    wire [35:0] all_do;
    assign DO = all_do[35:0];
    gowin_bsram #(9, BIT_WIDTH, BIT_WIDTH, READ_MODE, READ_MODE, 0, 0, RESET_MODE, `GOWIN_CONTENTS) ram(
        .CLKA(CLK), .CEA(CE), .WREA(1'b0), .OCEA(OCE), .RESETA(RESET), .ADA(AD), .DIA(36'd0), .DOA(all_do),
        .CLKB(1'b0), .CEB(1'b0), .WREB(1'b0), .OCEB(1'b0), .RESETB(1'b0), .ADB(14'd0), .DIB(36'd0)
    );
endmodule

// One port.
module SP(
    input CLK, CE, OCE, RESET, WRE, input [2:0] BLKSEL, input [13:0] AD, input [31:0] DI, output [31:0] DO
);
    parameter READ_MODE = 1'b0;
    parameter [1:0] WRITE_MODE = 0;
    parameter BIT_WIDTH = 32;
    parameter [2:0] BLK_SEL = 0;
    parameter RESET_MODE = "SYNC";
    `GOWIN_ROWS(256)
    wire [35:0] all_do;
    assign DO = all_do[31:0];
    gowin_bsram #(
        8, BIT_WIDTH, BIT_WIDTH, READ_MODE, READ_MODE, WRITE_MODE, WRITE_MODE, RESET_MODE, `GOWIN_CONTENTS
    ) ram(
        .CLKA(CLK), .CEA(CE & BLKSEL == BLK_SEL), .WREA(WRE), .OCEA(OCE), .RESETA(RESET), .ADA(AD), .DIA({4'd0, DI}), .DOA(all_do),
        .CLKB(1'b0), .CEB(1'b0), .WREB(1'b0), .OCEB(1'b0), .RESETB(1'b0), .ADB(14'd0), .DIB(36'd0)
    );
endmodule
module SPX9(
    input CLK, CE, OCE, RESET, WRE, input [2:0] BLKSEL, input [13:0] AD, input [35:0] DI, output [35:0] DO
);
    parameter READ_MODE = 1'b0;
    parameter [1:0] WRITE_MODE = 0;
    parameter BIT_WIDTH = 36;
    parameter [2:0] BLK_SEL = 0;
    parameter RESET_MODE = "SYNC";
    `GOWIN_ROWS(288)
    wire [35:0] all_do;
    assign DO = all_do[35:0];
    gowin_bsram #(
        9, BIT_WIDTH, BIT_WIDTH, READ_MODE, READ_MODE, WRITE_MODE, WRITE_MODE, RESET_MODE, `GOWIN_CONTENTS
    ) ram(
        .CLKA(CLK), .CEA(CE & BLKSEL == BLK_SEL), .WREA(WRE), .OCEA(OCE), .RESETA(RESET), .ADA(AD), .DIA(DI), .DOA(all_do),
        .CLKB(1'b0), .CEB(1'b0), .WREB(1'b0), .OCEB(1'b0), .RESETB(1'b0), .ADB(14'd0), .DIB(36'd0)
    );
endmodule

// Written through port A, read through port B.
module SDPB(
    input CLKA, CEA, RESETA, CLKB, CEB, RESETB, OCE, input [2:0] BLKSELA, BLKSELB,
    input [13:0] ADA, ADB, input [31:0] DI, output [31:0] DO
);
    parameter READ_MODE = 1'b0;
    parameter BIT_WIDTH_0 = 32;
    parameter BIT_WIDTH_1 = 32;
    parameter [2:0] BLK_SEL_0 = 0;
    parameter [2:0] BLK_SEL_1 = 0;
    parameter RESET_MODE = "SYNC";
    `GOWIN_ROWS(256)
    wire [35:0] all_do;
    assign DO = all_do[31:0];
    gowin_bsram #(8, BIT_WIDTH_0, BIT_WIDTH_1, 0, READ_MODE, 0, 0, RESET_MODE, `GOWIN_CONTENTS) ram(
        .CLKA(CLKA), .CEA(CEA & BLKSELA == BLK_SEL_0), .WREA(1'b1), .OCEA(1'b0), .RESETA(RESETA), .ADA(ADA), .DIA({4'd0, DI}),
        .CLKB(CLKB), .CEB(CEB & BLKSELB == BLK_SEL_1), .WREB(1'b0), .OCEB(OCE), .RESETB(RESETB), .ADB(ADB),
        .DIB(36'd0), .DOB(all_do)
    );
endmodule
module SDPX9B(
    input CLKA, CEA, RESETA, CLKB, CEB, RESETB, OCE, input [2:0] BLKSELA, BLKSELB,
    input [13:0] ADA, ADB, input [35:0] DI, output [35:0] DO
);
    parameter READ_MODE = 1'b0;
    parameter BIT_WIDTH_0 = 36;
    parameter BIT_WIDTH_1 = 36;
    parameter [2:0] BLK_SEL_0 = 0;
    parameter [2:0] BLK_SEL_1 = 0;
    parameter RESET_MODE = "SYNC";
    `GOWIN_ROWS(288)
    wire [35:0] all_do;
    assign DO = all_do[35:0];
    gowin_bsram #(9, BIT_WIDTH_0, BIT_WIDTH_1, 0, READ_MODE, 0, 0, RESET_MODE, `GOWIN_CONTENTS) ram(
        .CLKA(CLKA), .CEA(CEA & BLKSELA == BLK_SEL_0), .WREA(1'b1), .OCEA(1'b0), .RESETA(RESETA), .ADA(ADA), .DIA(DI),
        .CLKB(CLKB), .CEB(CEB & BLKSELB == BLK_SEL_1), .WREB(1'b0), .OCEB(OCE), .RESETB(RESETB), .ADB(ADB),
        .DIB(36'd0), .DOB(all_do)
    );
endmodule

// Two ports.
module DPB(
    input CLKA, CEA, WREA, OCEA, RESETA, CLKB, CEB, WREB, OCEB, RESETB, input [2:0] BLKSELA, BLKSELB,
    input [13:0] ADA, ADB, input [15:0] DIA, DIB, output [15:0] DOA, DOB
);
    parameter READ_MODE0 = 1'b0;
    parameter READ_MODE1 = 1'b0;
    parameter [1:0] WRITE_MODE0 = 0;
    parameter [1:0] WRITE_MODE1 = 0;
    parameter BIT_WIDTH_0 = 16;
    parameter BIT_WIDTH_1 = 16;
    parameter [2:0] BLK_SEL_0 = 0;
    parameter [2:0] BLK_SEL_1 = 0;
    parameter RESET_MODE = "SYNC";
    `GOWIN_ROWS(256)
    wire [35:0] all_a, all_b;
    assign DOA = all_a[15:0];
    assign DOB = all_b[15:0];
    gowin_bsram #(
        8, BIT_WIDTH_0, BIT_WIDTH_1, READ_MODE0, READ_MODE1, WRITE_MODE0, WRITE_MODE1, RESET_MODE, `GOWIN_CONTENTS
    ) ram(
        .CLKA(CLKA), .CEA(CEA & BLKSELA == BLK_SEL_0), .WREA(WREA), .OCEA(OCEA), .RESETA(RESETA),
        .ADA(ADA), .DIA({20'd0, DIA}), .DOA(all_a),
        .CLKB(CLKB), .CEB(CEB & BLKSELB == BLK_SEL_1), .WREB(WREB), .OCEB(OCEB), .RESETB(RESETB),
        .ADB(ADB), .DIB({20'd0, DIB}), .DOB(all_b)
    );
endmodule
module DPX9B(
    input CLKA, CEA, WREA, OCEA, RESETA, CLKB, CEB, WREB, OCEB, RESETB, input [2:0] BLKSELA, BLKSELB,
    input [13:0] ADA, ADB, input [17:0] DIA, DIB, output [17:0] DOA, DOB
);
    parameter READ_MODE0 = 1'b0;
    parameter READ_MODE1 = 1'b0;
    parameter [1:0] WRITE_MODE0 = 0;
    parameter [1:0] WRITE_MODE1 = 0;
    parameter BIT_WIDTH_0 = 18;
    parameter BIT_WIDTH_1 = 18;
    parameter [2:0] BLK_SEL_0 = 0;
    parameter [2:0] BLK_SEL_1 = 0;
    parameter RESET_MODE = "SYNC";
    `GOWIN_ROWS(288)
    wire [35:0] all_a, all_b;
    assign DOA = all_a[17:0];
    assign DOB = all_b[17:0];
    gowin_bsram #(
        9, BIT_WIDTH_0, BIT_WIDTH_1, READ_MODE0, READ_MODE1, WRITE_MODE0, WRITE_MODE1, RESET_MODE, `GOWIN_CONTENTS
    ) ram(
        .CLKA(CLKA), .CEA(CEA & BLKSELA == BLK_SEL_0), .WREA(WREA), .OCEA(OCEA), .RESETA(RESETA),
        .ADA(ADA), .DIA({18'd0, DIA}), .DOA(all_a),
        .CLKB(CLKB), .CEB(CEB & BLKSELB == BLK_SEL_1), .WREB(WREB), .OCEB(OCEB), .RESETB(RESETB),
        .ADB(ADB), .DIB({18'd0, DIB}), .DOB(all_b)
    );
endmodule

// A multiplier of signed (sign pins 1) or unsigned operands, with registers at the operands, within and at the product where their
// parameters are 1. Resets are synchronous.
module gowin_mult #(
    parameter WIDTH = 18, AREG = 0, BREG = 0, PIPE_REG = 0, OUT_REG = 0
) (
    input CLK, CE, RESET, ASIGN, BSIGN, input [WIDTH-1:0] A, B, output [2*WIDTH-1:0] DOUT
);
    reg [WIDTH-1:0] a_1, b_1;
    reg [2*WIDTH-1:0] product_2, out_3;
    wire [WIDTH-1:0] a = AREG ? a_1 : A, b = BREG ? b_1 : B;
    wire signed [WIDTH:0] wide_a = {ASIGN & a[WIDTH-1], a}, wide_b = {BSIGN & b[WIDTH-1], b};
    wire signed [2*WIDTH+1:0] full = wide_a * wide_b;
    wire [2*WIDTH-1:0] product = PIPE_REG ? product_2 : full[2*WIDTH-1:0];
    always @(posedge CLK)
        if (RESET) begin
            a_1 <= 0;
            b_1 <= 0;
            product_2 <= 0;
            out_3 <= 0;
        end else if (CE) begin
            a_1 <= A;
            b_1 <= B;
            product_2 <= full[2*WIDTH-1:0];
            out_3 <= product;
        end
    assign DOUT = OUT_REG ? out_3 : product;
endmodule

module MULT9X9(
    input CLK, CE, RESET, ASIGN, BSIGN, ASEL, BSEL, input [8:0] A, B, SIA, SIB, output [17:0] DOUT, output [8:0] SOA, SOB
);
    parameter AREG = 1'b0;
    parameter BREG = 1'b0;
    parameter ASIGN_REG = 1'b0;
    parameter BSIGN_REG = 1'b0;
    parameter PIPE_REG = 1'b0;
    parameter OUT_REG = 1'b0;
    parameter SOA_REG = 1'b0;
    parameter MULT_RESET_MODE = "SYNC";
    gowin_mult #(9, AREG, BREG, PIPE_REG, OUT_REG) mult(
        .CLK(CLK), .CE(CE), .RESET(RESET), .ASIGN(ASIGN), .BSIGN(BSIGN), .A(A), .B(B), .DOUT(DOUT)
    );
endmodule
module MULT18X18(
    input CLK, CE, RESET, ASIGN, BSIGN, ASEL, BSEL, input [17:0] A, B, SIA, SIB, output [35:0] DOUT, output [17:0] SOA, SOB
);
    parameter AREG = 1'b0;
    parameter BREG = 1'b0;
    parameter ASIGN_REG = 1'b0;
    parameter BSIGN_REG = 1'b0;
    parameter PIPE_REG = 1'b0;
    parameter OUT_REG = 1'b0;
    parameter SOA_REG = 1'b0;
    parameter MULT_RESET_MODE = "SYNC";
    gowin_mult #(18, AREG, BREG, PIPE_REG, OUT_REG) mult(
        .CLK(CLK), .CE(CE), .RESET(RESET), .ASIGN(ASIGN), .BSIGN(BSIGN), .A(A), .B(B), .DOUT(DOUT)
    );
endmodule
module MULT36X36(
    input CLK, CE, RESET, ASIGN, BSIGN, input [35:0] A, B, output [71:0] DOUT
);
    parameter AREG = 1'b0;
    parameter BREG = 1'b0;
    parameter ASIGN_REG = 1'b0;
    parameter BSIGN_REG = 1'b0;
    parameter PIPE_REG = 1'b0;
    parameter OUT0_REG = 1'b0;
    parameter OUT1_REG = 1'b0;
    parameter MULT_RESET_MODE = "SYNC";
    gowin_mult #(36, AREG, BREG, PIPE_REG, OUT1_REG) mult(
        .CLK(CLK), .CE(CE), .RESET(RESET), .ASIGN(ASIGN), .BSIGN(BSIGN), .A(A), .B(B), .DOUT(DOUT)
    );
endmodule

// PLL: every clock here is counted, none is timed, so the reference passes as it is. LOCK comes after 16 of it.
module rPLL(
    input CLKIN, CLKFB, RESET, RESET_P, input [5:0] FBDSEL, IDSEL, ODSEL, input [3:0] PSDA, DUTYDA, FDLY,
    output CLKOUT, CLKOUTP, CLKOUTD, CLKOUTD3, LOCK
);
    parameter FCLKIN = "100.0";
    parameter DEVICE = "GW2A-18C";
    parameter DYN_IDIV_SEL = "false";
    parameter DYN_FBDIV_SEL = "false";
    parameter DYN_ODIV_SEL = "false";
    parameter DYN_DA_EN = "false";
    parameter IDIV_SEL = 0;
    parameter FBDIV_SEL = 0;
    parameter ODIV_SEL = 8;
    parameter CLKFB_SEL = "internal";
    parameter CLKOUT_BYPASS = "false";
    parameter CLKOUTP_BYPASS = "false";
    parameter CLKOUTD_BYPASS = "false";
    reg [4:0] count = 0;
    always @(posedge CLKIN) if (RESET) count <= 0; else if (!LOCK) count <= count + 1;
    assign LOCK = count[4];
    assign CLKOUT = CLKIN;
endmodule
