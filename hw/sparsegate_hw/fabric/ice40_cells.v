// Behaviour of the cells that nextpnr packs for an iCE40 and that Yosys has no model of; its ICESTORM_LC and ICESTORM_RAM are there.
// For simulation only.

// Multiplier: Yosys' SB_MAC16.
module ICESTORM_DSP(
    input CLK, CE,
    input A_15, A_14, A_13, A_12, A_11, A_10, A_9, A_8, A_7, A_6, A_5, A_4, A_3, A_2, A_1, A_0,
    input B_15, B_14, B_13, B_12, B_11, B_10, B_9, B_8, B_7, B_6, B_5, B_4, B_3, B_2, B_1, B_0,
    input C_15, C_14, C_13, C_12, C_11, C_10, C_9, C_8, C_7, C_6, C_5, C_4, C_3, C_2, C_1, C_0,
    input D_15, D_14, D_13, D_12, D_11, D_10, D_9, D_8, D_7, D_6, D_5, D_4, D_3, D_2, D_1, D_0,
    input AHOLD, BHOLD, CHOLD, DHOLD, IRSTTOP, IRSTBOT, ORSTTOP, ORSTBOT,
    input OLOADTOP, OLOADBOT, ADDSUBTOP, ADDSUBBOT, OHOLDTOP, OHOLDBOT, CI, ACCUMCI, SIGNEXTIN,
    output O_31, O_30, O_29, O_28, O_27, O_26, O_25, O_24, O_23, O_22, O_21, O_20, O_19, O_18, O_17, O_16, O_15, O_14, O_13, O_12, O_11, O_10, O_9, O_8, O_7, O_6, O_5, O_4, O_3, O_2, O_1, O_0,
    output CO, ACCUMCO, SIGNEXTOUT
);
    parameter [0:0] NEG_TRIGGER = 0;
    parameter [0:0] A_REG = 0;
    parameter [0:0] B_REG = 0;
    parameter [0:0] C_REG = 0;
    parameter [0:0] D_REG = 0;
    parameter [0:0] TOP_8x8_MULT_REG = 0;
    parameter [0:0] BOT_8x8_MULT_REG = 0;
    parameter [0:0] PIPELINE_16x16_MULT_REG1 = 0;
    parameter [0:0] PIPELINE_16x16_MULT_REG2 = 0;
    parameter [0:0] TOPADDSUB_UPPERINPUT = 0;
    parameter [0:0] BOTADDSUB_UPPERINPUT = 0;
    parameter [0:0] MODE_8x8 = 0;
    parameter [0:0] A_SIGNED = 0;
    parameter [0:0] B_SIGNED = 0;
    parameter [1:0] TOPOUTPUT_SELECT = 0;
    parameter [1:0] TOPADDSUB_LOWERINPUT = 0;
    parameter [1:0] TOPADDSUB_CARRYSELECT = 0;
    parameter [1:0] BOTOUTPUT_SELECT = 0;
    parameter [1:0] BOTADDSUB_LOWERINPUT = 0;
    parameter [1:0] BOTADDSUB_CARRYSELECT = 0;

    wire [15:0] a = {A_15, A_14, A_13, A_12, A_11, A_10, A_9, A_8, A_7, A_6, A_5, A_4, A_3, A_2, A_1, A_0};
    wire [15:0] b = {B_15, B_14, B_13, B_12, B_11, B_10, B_9, B_8, B_7, B_6, B_5, B_4, B_3, B_2, B_1, B_0};
    wire [15:0] c = {C_15, C_14, C_13, C_12, C_11, C_10, C_9, C_8, C_7, C_6, C_5, C_4, C_3, C_2, C_1, C_0};
    wire [15:0] d = {D_15, D_14, D_13, D_12, D_11, D_10, D_9, D_8, D_7, D_6, D_5, D_4, D_3, D_2, D_1, D_0};
    wire [16:0] controls = {
        AHOLD, BHOLD, CHOLD, DHOLD, IRSTTOP, IRSTBOT, ORSTTOP, ORSTBOT, OLOADTOP, OLOADBOT, ADDSUBTOP, ADDSUBBOT,
        OHOLDTOP, OHOLDBOT, CI, ACCUMCI, SIGNEXTIN
    };

    SB_MAC16 #(
        .NEG_TRIGGER(NEG_TRIGGER), .A_REG(A_REG), .B_REG(B_REG), .C_REG(C_REG), .D_REG(D_REG),
        .TOP_8x8_MULT_REG(TOP_8x8_MULT_REG), .BOT_8x8_MULT_REG(BOT_8x8_MULT_REG),
        .PIPELINE_16x16_MULT_REG1(PIPELINE_16x16_MULT_REG1), .PIPELINE_16x16_MULT_REG2(PIPELINE_16x16_MULT_REG2),
        .TOPADDSUB_UPPERINPUT(TOPADDSUB_UPPERINPUT), .BOTADDSUB_UPPERINPUT(BOTADDSUB_UPPERINPUT), .MODE_8x8(MODE_8x8),
        .A_SIGNED(A_SIGNED), .B_SIGNED(B_SIGNED), .TOPOUTPUT_SELECT(TOPOUTPUT_SELECT),
        .TOPADDSUB_LOWERINPUT(TOPADDSUB_LOWERINPUT), .TOPADDSUB_CARRYSELECT(TOPADDSUB_CARRYSELECT),
        .BOTOUTPUT_SELECT(BOTOUTPUT_SELECT), .BOTADDSUB_LOWERINPUT(BOTADDSUB_LOWERINPUT),
        .BOTADDSUB_CARRYSELECT(BOTADDSUB_CARRYSELECT)
    ) cell_ (
        .CLK(CLK), .CE(CE), .A(a), .B(b), .C(c), .D(d),
        .AHOLD(controls[16]), .BHOLD(controls[15]), .CHOLD(controls[14]), .DHOLD(controls[13]), .IRSTTOP(controls[12]),
        .IRSTBOT(controls[11]), .ORSTTOP(controls[10]), .ORSTBOT(controls[9]), .OLOADTOP(controls[8]),
        .OLOADBOT(controls[7]), .ADDSUBTOP(controls[6]), .ADDSUBBOT(controls[5]), .OHOLDTOP(controls[4]),
        .OHOLDBOT(controls[3]), .CI(controls[2]), .ACCUMCI(controls[1]), .SIGNEXTIN(controls[0]),
        .O({O_31, O_30, O_29, O_28, O_27, O_26, O_25, O_24, O_23, O_22, O_21, O_20, O_19, O_18, O_17, O_16, O_15, O_14, O_13, O_12, O_11, O_10, O_9, O_8, O_7, O_6, O_5, O_4, O_3, O_2, O_1, O_0}),
        .CO(CO), .ACCUMCO(ACCUMCO), .SIGNEXTOUT(SIGNEXTOUT)
    );
endmodule

// Single-port RAM: Yosys' SB_SPRAM256KA. nextpnr connects every input.
module ICESTORM_SPRAM(
    input ADDRESS_13, ADDRESS_12, ADDRESS_11, ADDRESS_10, ADDRESS_9, ADDRESS_8, ADDRESS_7, ADDRESS_6, ADDRESS_5, ADDRESS_4, ADDRESS_3, ADDRESS_2, ADDRESS_1, ADDRESS_0,
    input DATAIN_15, DATAIN_14, DATAIN_13, DATAIN_12, DATAIN_11, DATAIN_10, DATAIN_9, DATAIN_8, DATAIN_7, DATAIN_6, DATAIN_5, DATAIN_4, DATAIN_3, DATAIN_2, DATAIN_1, DATAIN_0,
    input MASKWREN_3, MASKWREN_2, MASKWREN_1, MASKWREN_0, WREN, CHIPSELECT, CLOCK, STANDBY, SLEEP, POWEROFF,
    output DATAOUT_15, DATAOUT_14, DATAOUT_13, DATAOUT_12, DATAOUT_11, DATAOUT_10, DATAOUT_9, DATAOUT_8, DATAOUT_7, DATAOUT_6, DATAOUT_5, DATAOUT_4, DATAOUT_3, DATAOUT_2, DATAOUT_1, DATAOUT_0
);
    SB_SPRAM256KA cell_ (
        .ADDRESS({ADDRESS_13, ADDRESS_12, ADDRESS_11, ADDRESS_10, ADDRESS_9, ADDRESS_8, ADDRESS_7, ADDRESS_6, ADDRESS_5, ADDRESS_4, ADDRESS_3, ADDRESS_2, ADDRESS_1, ADDRESS_0}),
        .DATAIN({DATAIN_15, DATAIN_14, DATAIN_13, DATAIN_12, DATAIN_11, DATAIN_10, DATAIN_9, DATAIN_8, DATAIN_7, DATAIN_6, DATAIN_5, DATAIN_4, DATAIN_3, DATAIN_2, DATAIN_1, DATAIN_0}),
        .MASKWREN({MASKWREN_3, MASKWREN_2, MASKWREN_1, MASKWREN_0}),
        .WREN(WREN), .CHIPSELECT(CHIPSELECT), .CLOCK(CLOCK), .STANDBY(STANDBY), .SLEEP(SLEEP), .POWEROFF(POWEROFF),
        .DATAOUT({DATAOUT_15, DATAOUT_14, DATAOUT_13, DATAOUT_12, DATAOUT_11, DATAOUT_10, DATAOUT_9, DATAOUT_8, DATAOUT_7, DATAOUT_6, DATAOUT_5, DATAOUT_4, DATAOUT_3, DATAOUT_2, DATAOUT_1, DATAOUT_0})
    );
endmodule

// PLL: every clock here is counted, none is timed, so the reference passes as it is. LOCK comes after 16 of it.
module ICESTORM_PLL(
    input REFERENCECLK, RESETB, BYPASS, EXTFEEDBACK, LATCHINPUTVALUE, SDI, SCLK,
    input DYNAMICDELAY_7, DYNAMICDELAY_6, DYNAMICDELAY_5, DYNAMICDELAY_4, DYNAMICDELAY_3, DYNAMICDELAY_2, DYNAMICDELAY_1, DYNAMICDELAY_0,
    output PLLOUT_A, PLLOUT_A_GLOBAL, LOCK, SDO
);
    parameter DIVR = 0;
    parameter DIVF = 0;
    parameter DIVQ = 0;
    parameter FILTER_RANGE = 0;
    parameter FEEDBACK_PATH = 0;
    parameter FDA_FEEDBACK = 0;
    parameter FDA_RELATIVE = 0;
    parameter DELAY_ADJMODE_FB = 0;
    parameter DELAY_ADJMODE_REL = 0;
    parameter PLLTYPE = 0;
    parameter PLLOUT_SELECT_A = 0;
    parameter PLLOUT_SELECT_B = 0;
    parameter SHIFTREG_DIVMODE = 0;
    parameter ENABLE_ICEGATE_PORTA = 0;
    parameter ENABLE_ICEGATE_PORTB = 0;
    parameter TEST_MODE = 0;
    reg [4:0] count = 0;
    always @(posedge REFERENCECLK) if (!RESETB) count <= 0; else if (!LOCK) count <= count + 1;
    assign LOCK = count[4];
    assign PLLOUT_A = REFERENCECLK;
    assign PLLOUT_A_GLOBAL = REFERENCECLK;
endmodule

// Pads without a register or an enable, which Yosys models as tristates.
module PAD_INPUT(input PACKAGE_PIN, output D_IN_0);
    assign D_IN_0 = PACKAGE_PIN;
endmodule

module PAD_OUTPUT(output PACKAGE_PIN, input D_OUT_0);
    assign PACKAGE_PIN = D_OUT_0;
endmodule
