// Behaviour of the two ECP5 primitives that Yosys ships as black boxes only, in the modes that synth_ecp5 infers and that
// primitives.py asks for.
// Block RAM: Lattice FPGA-TN-02204, "ECP5 and ECP5-5G Memory Usage Guide"; multiplier: FPGA-TN-02205, "sysDSP Usage Guide".
// Used to simulate synthesized netlists; never synthesized.

// 16 kbit + parity, two ports. The array is 2048 bytes of 9 bits; INITVAL_hh holds 16 words of 18 bits, each in 20 bits.
// A 36-bit word (DATA_WIDTH 36, written through port A, read through port B) spreads over both ports' data pins.
// Outputs start at 0. A read of what the other port writes in the same cycle gives the old contents, and X of 36-bit words, for which
// nothing is promised.
module DP16KD(
    input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0,
    input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
    input CEA, OCEA, CLKA, WEA, RSTA, CSA2, CSA1, CSA0,
    output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0,
    input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0,
    input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
    input CEB, OCEB, CLKB, WEB, RSTB, CSB2, CSB1, CSB0,
    output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0
);
    parameter DATA_WIDTH_A = 18;
    parameter DATA_WIDTH_B = 18;
    parameter REGMODE_A = "NOREG";
    parameter REGMODE_B = "NOREG";
    parameter RESETMODE = "SYNC";
    parameter ASYNC_RESET_RELEASE = "SYNC";
    parameter CSDECODE_A = "0b000";
    parameter CSDECODE_B = "0b000";
    parameter WRITEMODE_A = "NORMAL";
    parameter WRITEMODE_B = "NORMAL";
    parameter CLKAMUX = "CLKA";
    parameter CLKBMUX = "CLKB";
    parameter GSR = "ENABLED";
    parameter INIT_DATA = "STATIC";
    parameter [319:0] INITVAL_00 = 0;
    parameter [319:0] INITVAL_01 = 0;
    parameter [319:0] INITVAL_02 = 0;
    parameter [319:0] INITVAL_03 = 0;
    parameter [319:0] INITVAL_04 = 0;
    parameter [319:0] INITVAL_05 = 0;
    parameter [319:0] INITVAL_06 = 0;
    parameter [319:0] INITVAL_07 = 0;
    parameter [319:0] INITVAL_08 = 0;
    parameter [319:0] INITVAL_09 = 0;
    parameter [319:0] INITVAL_0A = 0;
    parameter [319:0] INITVAL_0B = 0;
    parameter [319:0] INITVAL_0C = 0;
    parameter [319:0] INITVAL_0D = 0;
    parameter [319:0] INITVAL_0E = 0;
    parameter [319:0] INITVAL_0F = 0;
    parameter [319:0] INITVAL_10 = 0;
    parameter [319:0] INITVAL_11 = 0;
    parameter [319:0] INITVAL_12 = 0;
    parameter [319:0] INITVAL_13 = 0;
    parameter [319:0] INITVAL_14 = 0;
    parameter [319:0] INITVAL_15 = 0;
    parameter [319:0] INITVAL_16 = 0;
    parameter [319:0] INITVAL_17 = 0;
    parameter [319:0] INITVAL_18 = 0;
    parameter [319:0] INITVAL_19 = 0;
    parameter [319:0] INITVAL_1A = 0;
    parameter [319:0] INITVAL_1B = 0;
    parameter [319:0] INITVAL_1C = 0;
    parameter [319:0] INITVAL_1D = 0;
    parameter [319:0] INITVAL_1E = 0;
    parameter [319:0] INITVAL_1F = 0;
    parameter [319:0] INITVAL_20 = 0;
    parameter [319:0] INITVAL_21 = 0;
    parameter [319:0] INITVAL_22 = 0;
    parameter [319:0] INITVAL_23 = 0;
    parameter [319:0] INITVAL_24 = 0;
    parameter [319:0] INITVAL_25 = 0;
    parameter [319:0] INITVAL_26 = 0;
    parameter [319:0] INITVAL_27 = 0;
    parameter [319:0] INITVAL_28 = 0;
    parameter [319:0] INITVAL_29 = 0;
    parameter [319:0] INITVAL_2A = 0;
    parameter [319:0] INITVAL_2B = 0;
    parameter [319:0] INITVAL_2C = 0;
    parameter [319:0] INITVAL_2D = 0;
    parameter [319:0] INITVAL_2E = 0;
    parameter [319:0] INITVAL_2F = 0;
    parameter [319:0] INITVAL_30 = 0;
    parameter [319:0] INITVAL_31 = 0;
    parameter [319:0] INITVAL_32 = 0;
    parameter [319:0] INITVAL_33 = 0;
    parameter [319:0] INITVAL_34 = 0;
    parameter [319:0] INITVAL_35 = 0;
    parameter [319:0] INITVAL_36 = 0;
    parameter [319:0] INITVAL_37 = 0;
    parameter [319:0] INITVAL_38 = 0;
    parameter [319:0] INITVAL_39 = 0;
    parameter [319:0] INITVAL_3A = 0;
    parameter [319:0] INITVAL_3B = 0;
    parameter [319:0] INITVAL_3C = 0;
    parameter [319:0] INITVAL_3D = 0;
    parameter [319:0] INITVAL_3E = 0;
    parameter [319:0] INITVAL_3F = 0;
    wire [17:0] dia = {DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0};
    wire [17:0] dib = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0};
    wire [13:0] ada = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0};
    wire [13:0] adb = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0};
    wire [35:0] wide = {dib, dia};
    reg [35:0] latch_a = 0, latch_b = 0, out_a = 0, out_b = 0;
    wire [35:0] doa = REGMODE_A == "OUTREG" ? out_a : latch_a;
    wire [35:0] dob = REGMODE_B == "OUTREG" ? out_b : latch_b;
    // a 36-bit read comes through port B: its low half on A's pins, and a narrower one on B's
    wire [17:0] pins_a = DATA_WIDTH_B == 36 ? dob[17:0] : doa[17:0];
    wire [17:0] pins_b = DATA_WIDTH_B == 36 ? dob[35:18] : dob[17:0];
    assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0} = pins_a;
    assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0} = pins_b;

    reg [8:0] bytes [0:2047];
    reg [319:0] part;
    integer i, j;
    initial begin
        for (i = 0; i < 64; i = i + 1) begin
            case (i)
                0: part = INITVAL_00;
                1: part = INITVAL_01;
                2: part = INITVAL_02;
                3: part = INITVAL_03;
                4: part = INITVAL_04;
                5: part = INITVAL_05;
                6: part = INITVAL_06;
                7: part = INITVAL_07;
                8: part = INITVAL_08;
                9: part = INITVAL_09;
                10: part = INITVAL_0A;
                11: part = INITVAL_0B;
                12: part = INITVAL_0C;
                13: part = INITVAL_0D;
                14: part = INITVAL_0E;
                15: part = INITVAL_0F;
                16: part = INITVAL_10;
                17: part = INITVAL_11;
                18: part = INITVAL_12;
                19: part = INITVAL_13;
                20: part = INITVAL_14;
                21: part = INITVAL_15;
                22: part = INITVAL_16;
                23: part = INITVAL_17;
                24: part = INITVAL_18;
                25: part = INITVAL_19;
                26: part = INITVAL_1A;
                27: part = INITVAL_1B;
                28: part = INITVAL_1C;
                29: part = INITVAL_1D;
                30: part = INITVAL_1E;
                31: part = INITVAL_1F;
                32: part = INITVAL_20;
                33: part = INITVAL_21;
                34: part = INITVAL_22;
                35: part = INITVAL_23;
                36: part = INITVAL_24;
                37: part = INITVAL_25;
                38: part = INITVAL_26;
                39: part = INITVAL_27;
                40: part = INITVAL_28;
                41: part = INITVAL_29;
                42: part = INITVAL_2A;
                43: part = INITVAL_2B;
                44: part = INITVAL_2C;
                45: part = INITVAL_2D;
                46: part = INITVAL_2E;
                47: part = INITVAL_2F;
                48: part = INITVAL_30;
                49: part = INITVAL_31;
                50: part = INITVAL_32;
                51: part = INITVAL_33;
                52: part = INITVAL_34;
                53: part = INITVAL_35;
                54: part = INITVAL_36;
                55: part = INITVAL_37;
                56: part = INITVAL_38;
                57: part = INITVAL_39;
                58: part = INITVAL_3A;
                59: part = INITVAL_3B;
                60: part = INITVAL_3C;
                61: part = INITVAL_3D;
                62: part = INITVAL_3E;
                63: part = INITVAL_3F;
            endcase
            for (j = 0; j < 16; j = j + 1) begin
                bytes[i * 32 + j * 2] = part[j * 20 +: 9];
                bytes[i * 32 + j * 2 + 1] = part[j * 20 + 9 +: 9];
            end
        end
    end

    function [35:0] fetch(input integer width, input [13:0] address);
        case (width)
            36: fetch = {bytes[{address[13:5], 2'd3}], bytes[{address[13:5], 2'd2}], bytes[{address[13:5], 2'd1}], bytes[{address[13:5], 2'd0}]};
            18: fetch = {bytes[{address[13:4], 1'd1}], bytes[{address[13:4], 1'd0}]};
            9: fetch = bytes[address[13:3]];
            4: fetch = bytes[address[13:3]] >> (4 * address[2]) & 15;
            2: fetch = bytes[address[13:3]] >> (2 * address[2:1]) & 3;
            1: fetch = bytes[address[13:3]] >> address[2:0] & 1;
            default: fetch = 36'bx;
        endcase
    endfunction

    task store(input integer width, input [13:0] address, input [35:0] value);
        case (width)
            36: for (j = 0; j < 4; j = j + 1) if (address[j]) bytes[address[13:5] * 4 + j] = value[j * 9 +: 9];
            18: for (j = 0; j < 2; j = j + 1) if (address[j]) bytes[address[13:4] * 2 + j] = value[j * 9 +: 9];
            9: bytes[address[13:3]] = value[8:0];
            4: bytes[address[13:3]][4 * address[2] +: 4] = value[3:0];
            2: bytes[address[13:3]][2 * address[2:1] +: 2] = value[1:0];
            1: bytes[address[13:3]][address[2:0]] = value[0];
        endcase
    endtask

    wire select_a = CEA & {CSA2, CSA1, CSA0} == 0, select_b = CEB & {CSB2, CSB1, CSB0} == 0;
    wire clock_a = CLKAMUX == "INV" ? ~CLKA : CLKA, clock_b = CLKBMUX == "INV" ? ~CLKB : CLKB;
    wire collision = DATA_WIDTH_A == 36 && select_a && WEA && ada[3:0] != 0 && ada[13:5] == adb[13:5];
    // reads sample the contents before any write of the same edge: writes happen in the second half of the time step
    always @(posedge clock_a) begin
        if (OCEA) out_a <= latch_a;
        if (select_a) begin
            if (!WEA || WRITEMODE_A == "READBEFOREWRITE") latch_a <= fetch(DATA_WIDTH_A, ada);
            else if (WRITEMODE_A == "WRITETHROUGH") latch_a <= dia;
        end
        if (RSTA) begin latch_a <= 0; out_a <= 0; end
    end
    always @(posedge clock_b) begin
        if (OCEB) out_b <= latch_b;
        if (select_b) begin
            if (!WEB || WRITEMODE_B == "READBEFOREWRITE") latch_b <= collision ? 36'bx : fetch(DATA_WIDTH_B, adb);
            else if (WRITEMODE_B == "WRITETHROUGH") latch_b <= dib;
        end
        if (RSTB) begin latch_b <= 0; out_b <= 0; end
    end
    reg pending_a = 0, pending_b = 0;
    reg [13:0] where_a, where_b;
    reg [35:0] what_a, what_b;
    always @(posedge clock_a) begin
        pending_a <= select_a & WEA; where_a <= ada; what_a <= DATA_WIDTH_A == 36 ? wide : {18'd0, dia};
    end
    always @(posedge clock_b) begin
        pending_b <= select_b & WEB; where_b <= adb; what_b <= {18'd0, dib};
    end
    always @(negedge clock_a) if (pending_a) store(DATA_WIDTH_A, where_a, what_a);
    always @(negedge clock_b) if (pending_b) store(DATA_WIDTH_B, where_b, what_b);
endmodule

// 18 x 18 multiplier, and its registers where they are clocked by CLK0, always enabled and never reset.
module MULT18X18D(
    input A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0,
    input B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0,
    input C17, C16, C15, C14, C13, C12, C11, C10, C9, C8, C7, C6, C5, C4, C3, C2, C1, C0,
    input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
    input CLK0, CE0, RST0,
    output P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0
);
    parameter REG_INPUTA_CLK = "NONE";
    parameter REG_INPUTA_CE = "CE0";
    parameter REG_INPUTA_RST = "RST0";
    parameter REG_INPUTB_CLK = "NONE";
    parameter REG_INPUTB_CE = "CE0";
    parameter REG_INPUTB_RST = "RST0";
    parameter REG_INPUTC_CLK = "NONE";
    parameter REG_PIPELINE_CLK = "NONE";
    parameter REG_PIPELINE_CE = "CE0";
    parameter REG_PIPELINE_RST = "RST0";
    parameter REG_OUTPUT_CLK = "NONE";
    parameter REG_OUTPUT_CE = "CE0";
    parameter REG_OUTPUT_RST = "RST0";
    parameter CLK0_DIV = "ENABLED";
    parameter SOURCEB_MODE = "B_SHIFT";
    parameter MULT_BYPASS = "DISABLED";
    parameter RESETMODE = "SYNC";
    parameter GSR = "ENABLED";
    wire signed [18:0] pins_a = {SIGNEDA & A17, A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0};
    wire signed [18:0] pins_b = {SIGNEDB & B17, B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0};
    reg signed [18:0] input_a = 0, input_b = 0;
    reg signed [37:0] pipeline = 0, out = 0;
    wire signed [18:0] a = REG_INPUTA_CLK == "NONE" ? pins_a : input_a;
    wire signed [18:0] b = REG_INPUTB_CLK == "NONE" ? pins_b : input_b;
    wire signed [37:0] product = REG_PIPELINE_CLK == "NONE" ? a * b : pipeline;
    always @(posedge CLK0) begin
        input_a <= pins_a;
        input_b <= pins_b;
        pipeline <= a * b;
        out <= product;
    end
    wire signed [37:0] o = REG_OUTPUT_CLK == "NONE" ? product : out;
    assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0} = o[35:0];
endmodule
