// Made by scripts/make_ptx.sh from activate.cu; not to be edited.

#pragma once

#include <map>
#include <string>

namespace mlxterp::cuda {

inline const std::map<std::string, std::string> activate_kernels = {
    {"silu_bfloat16", R"ptx(.version 7.0
.target sm_80
.address_size 64
.visible .entry silu_bfloat16(
.param .u64 silu_bfloat16_param_0,
.param .u64 silu_bfloat16_param_1,
.param .u32 silu_bfloat16_param_2
)
{
.reg .pred 	%p<3>;
.reg .b16 	%rs<5>;
.reg .b32 	%r<16>;
.reg .f32 	%f<25>;
.reg .b64 	%rd<27>;
ld.param.u32 	%r2, [silu_bfloat16_param_2];
mov.u32 	%r3, %ctaid.x;
mov.u32 	%r4, %ntid.x;
mov.u32 	%r5, %tid.x;
mad.lo.s32 	%r1, %r3, %r4, %r5;
setp.ge.u32 	%p1, %r1, %r2;
@%p1 bra 	LBB0_5;
ld.param.u64 	%rd9, [silu_bfloat16_param_0];
ld.param.u64 	%rd10, [silu_bfloat16_param_1];
cvta.to.global.u64 	%rd1, %rd10;
cvta.to.global.u64 	%rd2, %rd9;
and.b64  	%rd11, %rd9, 7;
setp.ne.s64 	%p2, %rd11, 0;
@%p2 bra 	LBB0_3;
bra.uni 	LBB0_2;
LBB0_3:
shl.b32 	%r6, %r1, 2;
mul.wide.u32 	%rd12, %r6, 2;
add.s64 	%rd26, %rd2, %rd12;
cvt.u64.u32 	%rd25, %r1;
bra.uni 	LBB0_4;
LBB0_2:
cvt.u64.u32 	%rd25, %r1;
mul.wide.u32 	%rd13, %r1, 8;
add.s64 	%rd26, %rd2, %rd13;
LBB0_4:
ld.global.u16 	%r7, [%rd26];
shl.b32 	%r8, %r7, 16;
mov.b32 	%f21, %r8;
mul.f32 	%f2, %f21, 0fBFB8AA3B;
ex2.approx.f32 %f1, %f2;
add.f32 	%f4, %f1, 0f3F800000;
rcp.approx.f32 %f3, %f4;
mul.f32 	%f5, %f3, %f21;
cvt.rn.bf16.f32 %rs1, %f5;
ld.global.u16 	%r9, [%rd26+2];
shl.b32 	%r10, %r9, 16;
mov.b32 	%f22, %r10;
mul.f32 	%f7, %f22, 0fBFB8AA3B;
ex2.approx.f32 %f6, %f7;
add.f32 	%f9, %f6, 0f3F800000;
rcp.approx.f32 %f8, %f9;
mul.f32 	%f10, %f8, %f22;
cvt.rn.bf16.f32 %rs2, %f10;
ld.global.u16 	%r11, [%rd26+4];
shl.b32 	%r12, %r11, 16;
mov.b32 	%f23, %r12;
mul.f32 	%f12, %f23, 0fBFB8AA3B;
ex2.approx.f32 %f11, %f12;
add.f32 	%f14, %f11, 0f3F800000;
rcp.approx.f32 %f13, %f14;
mul.f32 	%f15, %f13, %f23;
cvt.rn.bf16.f32 %rs3, %f15;
ld.global.u16 	%r13, [%rd26+6];
shl.b32 	%r14, %r13, 16;
mov.b32 	%f24, %r14;
mul.f32 	%f17, %f24, 0fBFB8AA3B;
ex2.approx.f32 %f16, %f17;
add.f32 	%f19, %f16, 0f3F800000;
rcp.approx.f32 %f18, %f19;
mul.f32 	%f20, %f18, %f24;
cvt.rn.bf16.f32 %rs4, %f20;
shl.b64 	%rd14, %rd25, 3;
add.s64 	%rd15, %rd1, %rd14;
cvt.u64.u16 	%rd16, %rs4;
shl.b64 	%rd17, %rd16, 48;
cvt.u64.u16 	%rd18, %rs3;
shl.b64 	%rd19, %rd18, 32;
or.b64  	%rd20, %rd17, %rd19;
cvt.u32.u16 	%r15, %rs2;
mul.wide.u32 	%rd21, %r15, 65536;
or.b64  	%rd22, %rd20, %rd21;
cvt.u64.u16 	%rd23, %rs1;
or.b64  	%rd24, %rd22, %rd23;
st.global.u64 	[%rd15], %rd24;
LBB0_5:
ret;
}
)ptx"},
    {"silu_bfloat16_times", R"ptx(.version 7.0
.target sm_80
.address_size 64
.visible .entry silu_bfloat16_times(
.param .u64 silu_bfloat16_times_param_0,
.param .u64 silu_bfloat16_times_param_1,
.param .u64 silu_bfloat16_times_param_2,
.param .u32 silu_bfloat16_times_param_3
)
{
.reg .pred 	%p<5>;
.reg .b16 	%rs<5>;
.reg .b32 	%r<26>;
.reg .f32 	%f<42>;
.reg .b64 	%rd<36>;
ld.param.u32 	%r6, [silu_bfloat16_times_param_3];
mov.u32 	%r7, %ctaid.x;
mov.u32 	%r8, %ntid.x;
mov.u32 	%r9, %tid.x;
mad.lo.s32 	%r1, %r7, %r8, %r9;
setp.ge.u32 	%p1, %r1, %r6;
@%p1 bra 	LBB1_10;
ld.param.u64 	%rd11, [silu_bfloat16_times_param_1];
ld.param.u64 	%rd10, [silu_bfloat16_times_param_0];
ld.param.u64 	%rd12, [silu_bfloat16_times_param_2];
cvta.to.global.u64 	%rd2, %rd11;
cvta.to.global.u64 	%rd3, %rd10;
and.b64  	%rd13, %rd10, 7;
setp.ne.s64 	%p2, %rd13, 0;
shl.b32 	%r25, %r1, 2;
mul.wide.u32 	%rd33, %r1, 8;
@%p2 bra 	LBB1_3;
bra.uni 	LBB1_2;
LBB1_3:
mul.wide.u32 	%rd14, %r25, 2;
add.s64 	%rd34, %rd3, %rd14;
bra.uni 	LBB1_4;
LBB1_2:
add.s64 	%rd34, %rd3, %rd33;
LBB1_4:
cvta.to.global.u64 	%rd1, %rd12;
ld.global.u16 	%r2, [%rd34+6];
ld.global.u16 	%r3, [%rd34+4];
ld.global.u16 	%r4, [%rd34];
ld.global.u16 	%r5, [%rd34+2];
mov.u64 	%rd16, 0;
cvta.to.global.u64 	%rd17, %rd16;
setp.eq.s64 	%p3, %rd2, %rd17;
mov.f32 	%f38, 0f3F800000;
mov.f32 	%f39, %f38;
mov.f32 	%f40, %f38;
mov.f32 	%f41, %f38;
@%p3 bra 	LBB1_9;
and.b64  	%rd18, %rd11, 7;
setp.ne.s64 	%p4, %rd18, 0;
@%p4 bra 	LBB1_7;
bra.uni 	LBB1_6;
LBB1_7:
mul.wide.u32 	%rd19, %r25, 2;
add.s64 	%rd35, %rd2, %rd19;
bra.uni 	LBB1_8;
LBB1_6:
add.s64 	%rd35, %rd2, %rd33;
LBB1_8:
ld.global.u16 	%r12, [%rd35];
shl.b32 	%r13, %r12, 16;
mov.b32 	%f41, %r13;
ld.global.u16 	%r14, [%rd35+2];
shl.b32 	%r15, %r14, 16;
mov.b32 	%f40, %r15;
ld.global.u16 	%r16, [%rd35+4];
shl.b32 	%r17, %r16, 16;
mov.b32 	%f39, %r17;
ld.global.u16 	%r18, [%rd35+6];
shl.b32 	%r19, %r18, 16;
mov.b32 	%f38, %r19;
LBB1_9:
shl.b32 	%r20, %r4, 16;
mov.b32 	%f30, %r20;
mul.f32 	%f11, %f30, 0fBFB8AA3B;
ex2.approx.f32 %f10, %f11;
add.f32 	%f13, %f10, 0f3F800000;
rcp.approx.f32 %f12, %f13;
mul.f32 	%f31, %f12, %f30;
mul.f32 	%f14, %f41, %f31;
cvt.rn.bf16.f32 %rs1, %f14;
shl.b32 	%r21, %r5, 16;
mov.b32 	%f32, %r21;
mul.f32 	%f16, %f32, 0fBFB8AA3B;
ex2.approx.f32 %f15, %f16;
add.f32 	%f18, %f15, 0f3F800000;
rcp.approx.f32 %f17, %f18;
mul.f32 	%f33, %f17, %f32;
mul.f32 	%f19, %f40, %f33;
cvt.rn.bf16.f32 %rs2, %f19;
shl.b32 	%r22, %r3, 16;
mov.b32 	%f34, %r22;
mul.f32 	%f21, %f34, 0fBFB8AA3B;
ex2.approx.f32 %f20, %f21;
add.f32 	%f23, %f20, 0f3F800000;
rcp.approx.f32 %f22, %f23;
mul.f32 	%f35, %f22, %f34;
mul.f32 	%f24, %f39, %f35;
cvt.rn.bf16.f32 %rs3, %f24;
shl.b32 	%r23, %r2, 16;
mov.b32 	%f36, %r23;
mul.f32 	%f26, %f36, 0fBFB8AA3B;
ex2.approx.f32 %f25, %f26;
add.f32 	%f28, %f25, 0f3F800000;
rcp.approx.f32 %f27, %f28;
mul.f32 	%f37, %f27, %f36;
mul.f32 	%f29, %f38, %f37;
cvt.rn.bf16.f32 %rs4, %f29;
add.s64 	%rd22, %rd1, %rd33;
cvt.u64.u16 	%rd23, %rs4;
shl.b64 	%rd24, %rd23, 48;
cvt.u64.u16 	%rd25, %rs3;
shl.b64 	%rd26, %rd25, 32;
or.b64  	%rd27, %rd24, %rd26;
cvt.u32.u16 	%r24, %rs2;
mul.wide.u32 	%rd28, %r24, 65536;
or.b64  	%rd29, %rd27, %rd28;
cvt.u64.u16 	%rd30, %rs1;
or.b64  	%rd31, %rd29, %rd30;
st.global.u64 	[%rd22], %rd31;
LBB1_10:
ret;
}
)ptx"},
    {"silu_float16", R"ptx(.version 7.0
.target sm_80
.address_size 64
.visible .entry silu_float16(
.param .u64 silu_float16_param_0,
.param .u64 silu_float16_param_1,
.param .u32 silu_float16_param_2
)
{
.reg .pred 	%p<3>;
.reg .b16 	%rs<9>;
.reg .b32 	%r<8>;
.reg .f32 	%f<25>;
.reg .b64 	%rd<27>;
ld.param.u32 	%r2, [silu_float16_param_2];
mov.u32 	%r3, %ctaid.x;
mov.u32 	%r4, %ntid.x;
mov.u32 	%r5, %tid.x;
mad.lo.s32 	%r1, %r3, %r4, %r5;
setp.ge.u32 	%p1, %r1, %r2;
@%p1 bra 	LBB2_5;
ld.param.u64 	%rd9, [silu_float16_param_0];
ld.param.u64 	%rd10, [silu_float16_param_1];
cvta.to.global.u64 	%rd1, %rd10;
cvta.to.global.u64 	%rd2, %rd9;
and.b64  	%rd11, %rd9, 7;
setp.ne.s64 	%p2, %rd11, 0;
@%p2 bra 	LBB2_3;
bra.uni 	LBB2_2;
LBB2_3:
shl.b32 	%r6, %r1, 2;
mul.wide.u32 	%rd12, %r6, 2;
add.s64 	%rd26, %rd2, %rd12;
cvt.u64.u32 	%rd25, %r1;
bra.uni 	LBB2_4;
LBB2_2:
cvt.u64.u32 	%rd25, %r1;
mul.wide.u32 	%rd13, %r1, 8;
add.s64 	%rd26, %rd2, %rd13;
LBB2_4:
ld.global.u16 	%rs7, [%rd26+6];
ld.global.u16 	%rs5, [%rd26+4];
ld.global.u16 	%rs1, [%rd26];
ld.global.u16 	%rs3, [%rd26+2];
cvt.f32.f16 %f1, %rs1;
mul.f32 	%f3, %f1, 0fBFB8AA3B;
ex2.approx.f32 %f2, %f3;
add.f32 	%f5, %f2, 0f3F800000;
rcp.approx.f32 %f4, %f5;
mul.f32 	%f6, %f1, %f4;
cvt.rn.f16.f32 %rs2, %f6;
cvt.f32.f16 %f7, %rs3;
mul.f32 	%f9, %f7, 0fBFB8AA3B;
ex2.approx.f32 %f8, %f9;
add.f32 	%f11, %f8, 0f3F800000;
rcp.approx.f32 %f10, %f11;
mul.f32 	%f12, %f7, %f10;
cvt.rn.f16.f32 %rs4, %f12;
cvt.f32.f16 %f13, %rs5;
mul.f32 	%f15, %f13, 0fBFB8AA3B;
ex2.approx.f32 %f14, %f15;
add.f32 	%f17, %f14, 0f3F800000;
rcp.approx.f32 %f16, %f17;
mul.f32 	%f18, %f13, %f16;
cvt.rn.f16.f32 %rs6, %f18;
cvt.f32.f16 %f19, %rs7;
mul.f32 	%f21, %f19, 0fBFB8AA3B;
ex2.approx.f32 %f20, %f21;
add.f32 	%f23, %f20, 0f3F800000;
rcp.approx.f32 %f22, %f23;
mul.f32 	%f24, %f19, %f22;
cvt.rn.f16.f32 %rs8, %f24;
shl.b64 	%rd14, %rd25, 3;
add.s64 	%rd15, %rd1, %rd14;
cvt.u64.u16 	%rd16, %rs8;
shl.b64 	%rd17, %rd16, 48;
cvt.u64.u16 	%rd18, %rs6;
shl.b64 	%rd19, %rd18, 32;
or.b64  	%rd20, %rd17, %rd19;
cvt.u32.u16 	%r7, %rs4;
mul.wide.u32 	%rd21, %r7, 65536;
or.b64  	%rd22, %rd20, %rd21;
cvt.u64.u16 	%rd23, %rs2;
or.b64  	%rd24, %rd22, %rd23;
st.global.u64 	[%rd15], %rd24;
LBB2_5:
ret;
}
)ptx"},
    {"silu_float16_times", R"ptx(.version 7.0
.target sm_80
.address_size 64
.visible .entry silu_float16_times(
.param .u64 silu_float16_times_param_0,
.param .u64 silu_float16_times_param_1,
.param .u64 silu_float16_times_param_2,
.param .u32 silu_float16_times_param_3
)
{
.reg .pred 	%p<9>;
.reg .b16 	%rs<33>;
.reg .b32 	%r<10>;
.reg .f32 	%f<45>;
.reg .b64 	%rd<44>;
ld.param.u32 	%r2, [silu_float16_times_param_3];
mov.u32 	%r3, %ctaid.x;
mov.u32 	%r4, %ntid.x;
mov.u32 	%r5, %tid.x;
mad.lo.s32 	%r1, %r3, %r4, %r5;
setp.ge.u32 	%p1, %r1, %r2;
@%p1 bra 	LBB3_18;
ld.param.u64 	%rd11, [silu_float16_times_param_1];
ld.param.u64 	%rd10, [silu_float16_times_param_0];
cvta.to.global.u64 	%rd2, %rd11;
cvta.to.global.u64 	%rd3, %rd10;
and.b64  	%rd13, %rd10, 7;
setp.ne.s64 	%p2, %rd13, 0;
shl.b32 	%r9, %r1, 2;
mul.wide.u32 	%rd41, %r1, 8;
@%p2 bra 	LBB3_3;
bra.uni 	LBB3_2;
LBB3_3:
mul.wide.u32 	%rd14, %r9, 2;
add.s64 	%rd42, %rd3, %rd14;
bra.uni 	LBB3_4;
LBB3_2:
add.s64 	%rd42, %rd3, %rd41;
LBB3_4:
ld.global.u16 	%rs3, [%rd42];
mov.u64 	%rd16, 0;
cvta.to.global.u64 	%rd17, %rd16;
setp.eq.s64 	%p3, %rd2, %rd17;
mov.u16 	%rs29, 0;
mov.u16 	%rs30, %rs29;
mov.u16 	%rs31, %rs29;
mov.u16 	%rs32, %rs29;
@%p3 bra 	LBB3_9;
and.b64  	%rd18, %rd11, 7;
setp.ne.s64 	%p4, %rd18, 0;
@%p4 bra 	LBB3_7;
bra.uni 	LBB3_6;
LBB3_7:
mul.wide.u32 	%rd19, %r9, 2;
add.s64 	%rd43, %rd2, %rd19;
bra.uni 	LBB3_8;
LBB3_6:
add.s64 	%rd43, %rd2, %rd41;
LBB3_8:
ld.global.u16 	%rs32, [%rd43+6];
ld.global.u16 	%rs31, [%rd43+4];
ld.global.u16 	%rs29, [%rd43];
ld.global.u16 	%rs30, [%rd43+2];
LBB3_9:
ld.global.u16 	%rs4, [%rd42+2];
cvt.f32.f16 %f13, %rs3;
mul.f32 	%f15, %f13, 0fBFB8AA3B;
ex2.approx.f32 %f14, %f15;
add.f32 	%f17, %f14, 0f3F800000;
rcp.approx.f32 %f16, %f17;
mul.f32 	%f41, %f13, %f16;
@%p3 bra 	LBB3_11;
cvt.f32.f16 %f18, %rs29;
mul.f32 	%f41, %f41, %f18;
LBB3_11:
ld.global.u16 	%rs2, [%rd42+4];
cvt.rn.f16.f32 %rs19, %f41;
cvt.f32.f16 %f20, %rs4;
mul.f32 	%f22, %f20, 0fBFB8AA3B;
ex2.approx.f32 %f21, %f22;
add.f32 	%f24, %f21, 0f3F800000;
rcp.approx.f32 %f23, %f24;
mul.f32 	%f42, %f20, %f23;
@%p3 bra 	LBB3_13;
cvt.f32.f16 %f25, %rs30;
mul.f32 	%f42, %f42, %f25;
LBB3_13:
ld.param.u64 	%rd12, [silu_float16_times_param_2];
ld.global.u16 	%rs1, [%rd42+6];
cvt.rn.f16.f32 %rs22, %f42;
cvt.f32.f16 %f27, %rs2;
mul.f32 	%f29, %f27, 0fBFB8AA3B;
ex2.approx.f32 %f28, %f29;
add.f32 	%f31, %f28, 0f3F800000;
rcp.approx.f32 %f30, %f31;
mul.f32 	%f43, %f27, %f30;
@%p3 bra 	LBB3_15;
cvt.f32.f16 %f32, %rs31;
mul.f32 	%f43, %f43, %f32;
LBB3_15:
cvta.to.global.u64 	%rd1, %rd12;
cvt.rn.f16.f32 %rs25, %f43;
cvt.f32.f16 %f34, %rs1;
mul.f32 	%f36, %f34, 0fBFB8AA3B;
ex2.approx.f32 %f35, %f36;
add.f32 	%f38, %f35, 0f3F800000;
rcp.approx.f32 %f37, %f38;
mul.f32 	%f44, %f34, %f37;
@%p3 bra 	LBB3_17;
cvt.f32.f16 %f39, %rs32;
mul.f32 	%f44, %f44, %f39;
LBB3_17:
cvt.rn.f16.f32 %rs28, %f44;
add.s64 	%rd30, %rd1, %rd41;
cvt.u64.u16 	%rd31, %rs28;
shl.b64 	%rd32, %rd31, 48;
cvt.u64.u16 	%rd33, %rs25;
shl.b64 	%rd34, %rd33, 32;
or.b64  	%rd35, %rd32, %rd34;
cvt.u32.u16 	%r8, %rs22;
mul.wide.u32 	%rd36, %r8, 65536;
or.b64  	%rd37, %rd35, %rd36;
cvt.u64.u16 	%rd38, %rs19;
or.b64  	%rd39, %rd37, %rd38;
st.global.u64 	[%rd30], %rd39;
LBB3_18:
ret;
}
)ptx"},
    {"gelu_tanh_bfloat16", R"ptx(.version 7.0
.target sm_80
.address_size 64
.visible .entry gelu_tanh_bfloat16(
.param .u64 gelu_tanh_bfloat16_param_0,
.param .u64 gelu_tanh_bfloat16_param_1,
.param .u32 gelu_tanh_bfloat16_param_2
)
{
.reg .pred 	%p<3>;
.reg .b16 	%rs<5>;
.reg .b32 	%r<16>;
.reg .f32 	%f<41>;
.reg .b64 	%rd<27>;
ld.param.u32 	%r2, [gelu_tanh_bfloat16_param_2];
mov.u32 	%r3, %ctaid.x;
mov.u32 	%r4, %ntid.x;
mov.u32 	%r5, %tid.x;
mad.lo.s32 	%r1, %r3, %r4, %r5;
setp.ge.u32 	%p1, %r1, %r2;
@%p1 bra 	LBB4_5;
ld.param.u64 	%rd9, [gelu_tanh_bfloat16_param_0];
ld.param.u64 	%rd10, [gelu_tanh_bfloat16_param_1];
cvta.to.global.u64 	%rd1, %rd10;
cvta.to.global.u64 	%rd2, %rd9;
and.b64  	%rd11, %rd9, 7;
setp.ne.s64 	%p2, %rd11, 0;
@%p2 bra 	LBB4_3;
bra.uni 	LBB4_2;
LBB4_3:
shl.b32 	%r6, %r1, 2;
mul.wide.u32 	%rd12, %r6, 2;
add.s64 	%rd26, %rd2, %rd12;
cvt.u64.u32 	%rd25, %r1;
bra.uni 	LBB4_4;
LBB4_2:
cvt.u64.u32 	%rd25, %r1;
mul.wide.u32 	%rd13, %r1, 8;
add.s64 	%rd26, %rd2, %rd13;
LBB4_4:
ld.global.u16 	%r7, [%rd26];
shl.b32 	%r8, %r7, 16;
mov.b32 	%f21, %r8;
mul.f32 	%f22, %f21, 0f3D372713;
mul.f32 	%f23, %f22, %f21;
fma.rn.f32 	%f24, %f23, %f21, %f21;
mul.f32 	%f25, %f24, 0f3FCC422A;
mul.f32 	%f2, %f25, 0fBFB8AA3B;
ex2.approx.f32 %f1, %f2;
add.f32 	%f4, %f1, 0f3F800000;
rcp.approx.f32 %f3, %f4;
mul.f32 	%f5, %f3, %f21;
cvt.rn.bf16.f32 %rs1, %f5;
ld.global.u16 	%r9, [%rd26+2];
shl.b32 	%r10, %r9, 16;
mov.b32 	%f26, %r10;
mul.f32 	%f27, %f26, 0f3D372713;
mul.f32 	%f28, %f27, %f26;
fma.rn.f32 	%f29, %f28, %f26, %f26;
mul.f32 	%f30, %f29, 0f3FCC422A;
mul.f32 	%f7, %f30, 0fBFB8AA3B;
ex2.approx.f32 %f6, %f7;
add.f32 	%f9, %f6, 0f3F800000;
rcp.approx.f32 %f8, %f9;
mul.f32 	%f10, %f8, %f26;
cvt.rn.bf16.f32 %rs2, %f10;
ld.global.u16 	%r11, [%rd26+4];
shl.b32 	%r12, %r11, 16;
mov.b32 	%f31, %r12;
mul.f32 	%f32, %f31, 0f3D372713;
mul.f32 	%f33, %f32, %f31;
fma.rn.f32 	%f34, %f33, %f31, %f31;
mul.f32 	%f35, %f34, 0f3FCC422A;
mul.f32 	%f12, %f35, 0fBFB8AA3B;
ex2.approx.f32 %f11, %f12;
add.f32 	%f14, %f11, 0f3F800000;
rcp.approx.f32 %f13, %f14;
mul.f32 	%f15, %f13, %f31;
cvt.rn.bf16.f32 %rs3, %f15;
ld.global.u16 	%r13, [%rd26+6];
shl.b32 	%r14, %r13, 16;
mov.b32 	%f36, %r14;
mul.f32 	%f37, %f36, 0f3D372713;
mul.f32 	%f38, %f37, %f36;
fma.rn.f32 	%f39, %f38, %f36, %f36;
mul.f32 	%f40, %f39, 0f3FCC422A;
mul.f32 	%f17, %f40, 0fBFB8AA3B;
ex2.approx.f32 %f16, %f17;
add.f32 	%f19, %f16, 0f3F800000;
rcp.approx.f32 %f18, %f19;
mul.f32 	%f20, %f18, %f36;
cvt.rn.bf16.f32 %rs4, %f20;
shl.b64 	%rd14, %rd25, 3;
add.s64 	%rd15, %rd1, %rd14;
cvt.u64.u16 	%rd16, %rs4;
shl.b64 	%rd17, %rd16, 48;
cvt.u64.u16 	%rd18, %rs3;
shl.b64 	%rd19, %rd18, 32;
or.b64  	%rd20, %rd17, %rd19;
cvt.u32.u16 	%r15, %rs2;
mul.wide.u32 	%rd21, %r15, 65536;
or.b64  	%rd22, %rd20, %rd21;
cvt.u64.u16 	%rd23, %rs1;
or.b64  	%rd24, %rd22, %rd23;
st.global.u64 	[%rd15], %rd24;
LBB4_5:
ret;
}
)ptx"},
    {"gelu_tanh_bfloat16_times", R"ptx(.version 7.0
.target sm_80
.address_size 64
.visible .entry gelu_tanh_bfloat16_times(
.param .u64 gelu_tanh_bfloat16_times_param_0,
.param .u64 gelu_tanh_bfloat16_times_param_1,
.param .u64 gelu_tanh_bfloat16_times_param_2,
.param .u32 gelu_tanh_bfloat16_times_param_3
)
{
.reg .pred 	%p<5>;
.reg .b16 	%rs<5>;
.reg .b32 	%r<26>;
.reg .f32 	%f<58>;
.reg .b64 	%rd<36>;
ld.param.u32 	%r6, [gelu_tanh_bfloat16_times_param_3];
mov.u32 	%r7, %ctaid.x;
mov.u32 	%r8, %ntid.x;
mov.u32 	%r9, %tid.x;
mad.lo.s32 	%r1, %r7, %r8, %r9;
setp.ge.u32 	%p1, %r1, %r6;
@%p1 bra 	LBB5_10;
ld.param.u64 	%rd11, [gelu_tanh_bfloat16_times_param_1];
ld.param.u64 	%rd10, [gelu_tanh_bfloat16_times_param_0];
ld.param.u64 	%rd12, [gelu_tanh_bfloat16_times_param_2];
cvta.to.global.u64 	%rd2, %rd11;
cvta.to.global.u64 	%rd3, %rd10;
and.b64  	%rd13, %rd10, 7;
setp.ne.s64 	%p2, %rd13, 0;
shl.b32 	%r25, %r1, 2;
mul.wide.u32 	%rd33, %r1, 8;
@%p2 bra 	LBB5_3;
bra.uni 	LBB5_2;
LBB5_3:
mul.wide.u32 	%rd14, %r25, 2;
add.s64 	%rd34, %rd3, %rd14;
bra.uni 	LBB5_4;
LBB5_2:
add.s64 	%rd34, %rd3, %rd33;
LBB5_4:
cvta.to.global.u64 	%rd1, %rd12;
ld.global.u16 	%r2, [%rd34+6];
ld.global.u16 	%r3, [%rd34+4];
ld.global.u16 	%r4, [%rd34];
ld.global.u16 	%r5, [%rd34+2];
mov.u64 	%rd16, 0;
cvta.to.global.u64 	%rd17, %rd16;
setp.eq.s64 	%p3, %rd2, %rd17;
mov.f32 	%f54, 0f3F800000;
mov.f32 	%f55, %f54;
mov.f32 	%f56, %f54;
mov.f32 	%f57, %f54;
@%p3 bra 	LBB5_9;
and.b64  	%rd18, %rd11, 7;
setp.ne.s64 	%p4, %rd18, 0;
@%p4 bra 	LBB5_7;
bra.uni 	LBB5_6;
LBB5_7:
mul.wide.u32 	%rd19, %r25, 2;
add.s64 	%rd35, %rd2, %rd19;
bra.uni 	LBB5_8;
LBB5_6:
add.s64 	%rd35, %rd2, %rd33;
LBB5_8:
ld.global.u16 	%r12, [%rd35];
shl.b32 	%r13, %r12, 16;
mov.b32 	%f57, %r13;
ld.global.u16 	%r14, [%rd35+2];
shl.b32 	%r15, %r14, 16;
mov.b32 	%f56, %r15;
ld.global.u16 	%r16, [%rd35+4];
shl.b32 	%r17, %r16, 16;
mov.b32 	%f55, %r17;
ld.global.u16 	%r18, [%rd35+6];
shl.b32 	%r19, %r18, 16;
mov.b32 	%f54, %r19;
LBB5_9:
shl.b32 	%r20, %r4, 16;
mov.b32 	%f30, %r20;
mul.f32 	%f31, %f30, 0f3D372713;
mul.f32 	%f32, %f31, %f30;
fma.rn.f32 	%f33, %f32, %f30, %f30;
mul.f32 	%f34, %f33, 0f3FCC422A;
mul.f32 	%f11, %f34, 0fBFB8AA3B;
ex2.approx.f32 %f10, %f11;
add.f32 	%f13, %f10, 0f3F800000;
rcp.approx.f32 %f12, %f13;
mul.f32 	%f35, %f12, %f30;
mul.f32 	%f14, %f57, %f35;
cvt.rn.bf16.f32 %rs1, %f14;
shl.b32 	%r21, %r5, 16;
mov.b32 	%f36, %r21;
mul.f32 	%f37, %f36, 0f3D372713;
mul.f32 	%f38, %f37, %f36;
fma.rn.f32 	%f39, %f38, %f36, %f36;
mul.f32 	%f40, %f39, 0f3FCC422A;
mul.f32 	%f16, %f40, 0fBFB8AA3B;
ex2.approx.f32 %f15, %f16;
add.f32 	%f18, %f15, 0f3F800000;
rcp.approx.f32 %f17, %f18;
mul.f32 	%f41, %f17, %f36;
mul.f32 	%f19, %f56, %f41;
cvt.rn.bf16.f32 %rs2, %f19;
shl.b32 	%r22, %r3, 16;
mov.b32 	%f42, %r22;
mul.f32 	%f43, %f42, 0f3D372713;
mul.f32 	%f44, %f43, %f42;
fma.rn.f32 	%f45, %f44, %f42, %f42;
mul.f32 	%f46, %f45, 0f3FCC422A;
mul.f32 	%f21, %f46, 0fBFB8AA3B;
ex2.approx.f32 %f20, %f21;
add.f32 	%f23, %f20, 0f3F800000;
rcp.approx.f32 %f22, %f23;
mul.f32 	%f47, %f22, %f42;
mul.f32 	%f24, %f55, %f47;
cvt.rn.bf16.f32 %rs3, %f24;
shl.b32 	%r23, %r2, 16;
mov.b32 	%f48, %r23;
mul.f32 	%f49, %f48, 0f3D372713;
mul.f32 	%f50, %f49, %f48;
fma.rn.f32 	%f51, %f50, %f48, %f48;
mul.f32 	%f52, %f51, 0f3FCC422A;
mul.f32 	%f26, %f52, 0fBFB8AA3B;
ex2.approx.f32 %f25, %f26;
add.f32 	%f28, %f25, 0f3F800000;
rcp.approx.f32 %f27, %f28;
mul.f32 	%f53, %f27, %f48;
mul.f32 	%f29, %f54, %f53;
cvt.rn.bf16.f32 %rs4, %f29;
add.s64 	%rd22, %rd1, %rd33;
cvt.u64.u16 	%rd23, %rs4;
shl.b64 	%rd24, %rd23, 48;
cvt.u64.u16 	%rd25, %rs3;
shl.b64 	%rd26, %rd25, 32;
or.b64  	%rd27, %rd24, %rd26;
cvt.u32.u16 	%r24, %rs2;
mul.wide.u32 	%rd28, %r24, 65536;
or.b64  	%rd29, %rd27, %rd28;
cvt.u64.u16 	%rd30, %rs1;
or.b64  	%rd31, %rd29, %rd30;
st.global.u64 	[%rd22], %rd31;
LBB5_10:
ret;
}
)ptx"},
    {"gelu_tanh_float16", R"ptx(.version 7.0
.target sm_80
.address_size 64
.visible .entry gelu_tanh_float16(
.param .u64 gelu_tanh_float16_param_0,
.param .u64 gelu_tanh_float16_param_1,
.param .u32 gelu_tanh_float16_param_2
)
{
.reg .pred 	%p<3>;
.reg .b16 	%rs<9>;
.reg .b32 	%r<8>;
.reg .f32 	%f<41>;
.reg .b64 	%rd<27>;
ld.param.u32 	%r2, [gelu_tanh_float16_param_2];
mov.u32 	%r3, %ctaid.x;
mov.u32 	%r4, %ntid.x;
mov.u32 	%r5, %tid.x;
mad.lo.s32 	%r1, %r3, %r4, %r5;
setp.ge.u32 	%p1, %r1, %r2;
@%p1 bra 	LBB6_5;
ld.param.u64 	%rd9, [gelu_tanh_float16_param_0];
ld.param.u64 	%rd10, [gelu_tanh_float16_param_1];
cvta.to.global.u64 	%rd1, %rd10;
cvta.to.global.u64 	%rd2, %rd9;
and.b64  	%rd11, %rd9, 7;
setp.ne.s64 	%p2, %rd11, 0;
@%p2 bra 	LBB6_3;
bra.uni 	LBB6_2;
LBB6_3:
shl.b32 	%r6, %r1, 2;
mul.wide.u32 	%rd12, %r6, 2;
add.s64 	%rd26, %rd2, %rd12;
cvt.u64.u32 	%rd25, %r1;
bra.uni 	LBB6_4;
LBB6_2:
cvt.u64.u32 	%rd25, %r1;
mul.wide.u32 	%rd13, %r1, 8;
add.s64 	%rd26, %rd2, %rd13;
LBB6_4:
ld.global.u16 	%rs7, [%rd26+6];
ld.global.u16 	%rs5, [%rd26+4];
ld.global.u16 	%rs1, [%rd26];
ld.global.u16 	%rs3, [%rd26+2];
cvt.f32.f16 %f1, %rs1;
mul.f32 	%f25, %f1, 0f3D372713;
mul.f32 	%f26, %f1, %f25;
fma.rn.f32 	%f27, %f1, %f26, %f1;
mul.f32 	%f28, %f27, 0f3FCC422A;
mul.f32 	%f3, %f28, 0fBFB8AA3B;
ex2.approx.f32 %f2, %f3;
add.f32 	%f5, %f2, 0f3F800000;
rcp.approx.f32 %f4, %f5;
mul.f32 	%f6, %f1, %f4;
cvt.rn.f16.f32 %rs2, %f6;
cvt.f32.f16 %f7, %rs3;
mul.f32 	%f29, %f7, 0f3D372713;
mul.f32 	%f30, %f7, %f29;
fma.rn.f32 	%f31, %f7, %f30, %f7;
mul.f32 	%f32, %f31, 0f3FCC422A;
mul.f32 	%f9, %f32, 0fBFB8AA3B;
ex2.approx.f32 %f8, %f9;
add.f32 	%f11, %f8, 0f3F800000;
rcp.approx.f32 %f10, %f11;
mul.f32 	%f12, %f7, %f10;
cvt.rn.f16.f32 %rs4, %f12;
cvt.f32.f16 %f13, %rs5;
mul.f32 	%f33, %f13, 0f3D372713;
mul.f32 	%f34, %f13, %f33;
fma.rn.f32 	%f35, %f13, %f34, %f13;
mul.f32 	%f36, %f35, 0f3FCC422A;
mul.f32 	%f15, %f36, 0fBFB8AA3B;
ex2.approx.f32 %f14, %f15;
add.f32 	%f17, %f14, 0f3F800000;
rcp.approx.f32 %f16, %f17;
mul.f32 	%f18, %f13, %f16;
cvt.rn.f16.f32 %rs6, %f18;
cvt.f32.f16 %f19, %rs7;
mul.f32 	%f37, %f19, 0f3D372713;
mul.f32 	%f38, %f19, %f37;
fma.rn.f32 	%f39, %f19, %f38, %f19;
mul.f32 	%f40, %f39, 0f3FCC422A;
mul.f32 	%f21, %f40, 0fBFB8AA3B;
ex2.approx.f32 %f20, %f21;
add.f32 	%f23, %f20, 0f3F800000;
rcp.approx.f32 %f22, %f23;
mul.f32 	%f24, %f19, %f22;
cvt.rn.f16.f32 %rs8, %f24;
shl.b64 	%rd14, %rd25, 3;
add.s64 	%rd15, %rd1, %rd14;
cvt.u64.u16 	%rd16, %rs8;
shl.b64 	%rd17, %rd16, 48;
cvt.u64.u16 	%rd18, %rs6;
shl.b64 	%rd19, %rd18, 32;
or.b64  	%rd20, %rd17, %rd19;
cvt.u32.u16 	%r7, %rs4;
mul.wide.u32 	%rd21, %r7, 65536;
or.b64  	%rd22, %rd20, %rd21;
cvt.u64.u16 	%rd23, %rs2;
or.b64  	%rd24, %rd22, %rd23;
st.global.u64 	[%rd15], %rd24;
LBB6_5:
ret;
}
)ptx"},
    {"gelu_tanh_float16_times", R"ptx(.version 7.0
.target sm_80
.address_size 64
.visible .entry gelu_tanh_float16_times(
.param .u64 gelu_tanh_float16_times_param_0,
.param .u64 gelu_tanh_float16_times_param_1,
.param .u64 gelu_tanh_float16_times_param_2,
.param .u32 gelu_tanh_float16_times_param_3
)
{
.reg .pred 	%p<9>;
.reg .b16 	%rs<33>;
.reg .b32 	%r<10>;
.reg .f32 	%f<61>;
.reg .b64 	%rd<44>;
ld.param.u32 	%r2, [gelu_tanh_float16_times_param_3];
mov.u32 	%r3, %ctaid.x;
mov.u32 	%r4, %ntid.x;
mov.u32 	%r5, %tid.x;
mad.lo.s32 	%r1, %r3, %r4, %r5;
setp.ge.u32 	%p1, %r1, %r2;
@%p1 bra 	LBB7_18;
ld.param.u64 	%rd11, [gelu_tanh_float16_times_param_1];
ld.param.u64 	%rd10, [gelu_tanh_float16_times_param_0];
cvta.to.global.u64 	%rd2, %rd11;
cvta.to.global.u64 	%rd3, %rd10;
and.b64  	%rd13, %rd10, 7;
setp.ne.s64 	%p2, %rd13, 0;
shl.b32 	%r9, %r1, 2;
mul.wide.u32 	%rd41, %r1, 8;
@%p2 bra 	LBB7_3;
bra.uni 	LBB7_2;
LBB7_3:
mul.wide.u32 	%rd14, %r9, 2;
add.s64 	%rd42, %rd3, %rd14;
bra.uni 	LBB7_4;
LBB7_2:
add.s64 	%rd42, %rd3, %rd41;
LBB7_4:
ld.global.u16 	%rs3, [%rd42];
mov.u64 	%rd16, 0;
cvta.to.global.u64 	%rd17, %rd16;
setp.eq.s64 	%p3, %rd2, %rd17;
mov.u16 	%rs29, 0;
mov.u16 	%rs30, %rs29;
mov.u16 	%rs31, %rs29;
mov.u16 	%rs32, %rs29;
@%p3 bra 	LBB7_9;
and.b64  	%rd18, %rd11, 7;
setp.ne.s64 	%p4, %rd18, 0;
@%p4 bra 	LBB7_7;
bra.uni 	LBB7_6;
LBB7_7:
mul.wide.u32 	%rd19, %r9, 2;
add.s64 	%rd43, %rd2, %rd19;
bra.uni 	LBB7_8;
LBB7_6:
add.s64 	%rd43, %rd2, %rd41;
LBB7_8:
ld.global.u16 	%rs32, [%rd43+6];
ld.global.u16 	%rs31, [%rd43+4];
ld.global.u16 	%rs29, [%rd43];
ld.global.u16 	%rs30, [%rd43+2];
LBB7_9:
ld.global.u16 	%rs4, [%rd42+2];
cvt.f32.f16 %f13, %rs3;
mul.f32 	%f18, %f13, 0f3D372713;
mul.f32 	%f19, %f13, %f18;
fma.rn.f32 	%f20, %f13, %f19, %f13;
mul.f32 	%f21, %f20, 0f3FCC422A;
mul.f32 	%f15, %f21, 0fBFB8AA3B;
ex2.approx.f32 %f14, %f15;
add.f32 	%f17, %f14, 0f3F800000;
rcp.approx.f32 %f16, %f17;
mul.f32 	%f57, %f13, %f16;
@%p3 bra 	LBB7_11;
cvt.f32.f16 %f22, %rs29;
mul.f32 	%f57, %f57, %f22;
LBB7_11:
ld.global.u16 	%rs2, [%rd42+4];
cvt.rn.f16.f32 %rs19, %f57;
cvt.f32.f16 %f24, %rs4;
mul.f32 	%f29, %f24, 0f3D372713;
mul.f32 	%f30, %f24, %f29;
fma.rn.f32 	%f31, %f24, %f30, %f24;
mul.f32 	%f32, %f31, 0f3FCC422A;
mul.f32 	%f26, %f32, 0fBFB8AA3B;
ex2.approx.f32 %f25, %f26;
add.f32 	%f28, %f25, 0f3F800000;
rcp.approx.f32 %f27, %f28;
mul.f32 	%f58, %f24, %f27;
@%p3 bra 	LBB7_13;
cvt.f32.f16 %f33, %rs30;
mul.f32 	%f58, %f58, %f33;
LBB7_13:
ld.param.u64 	%rd12, [gelu_tanh_float16_times_param_2];
ld.global.u16 	%rs1, [%rd42+6];
cvt.rn.f16.f32 %rs22, %f58;
cvt.f32.f16 %f35, %rs2;
mul.f32 	%f40, %f35, 0f3D372713;
mul.f32 	%f41, %f35, %f40;
fma.rn.f32 	%f42, %f35, %f41, %f35;
mul.f32 	%f43, %f42, 0f3FCC422A;
mul.f32 	%f37, %f43, 0fBFB8AA3B;
ex2.approx.f32 %f36, %f37;
add.f32 	%f39, %f36, 0f3F800000;
rcp.approx.f32 %f38, %f39;
mul.f32 	%f59, %f35, %f38;
@%p3 bra 	LBB7_15;
cvt.f32.f16 %f44, %rs31;
mul.f32 	%f59, %f59, %f44;
LBB7_15:
cvta.to.global.u64 	%rd1, %rd12;
cvt.rn.f16.f32 %rs25, %f59;
cvt.f32.f16 %f46, %rs1;
mul.f32 	%f51, %f46, 0f3D372713;
mul.f32 	%f52, %f46, %f51;
fma.rn.f32 	%f53, %f46, %f52, %f46;
mul.f32 	%f54, %f53, 0f3FCC422A;
mul.f32 	%f48, %f54, 0fBFB8AA3B;
ex2.approx.f32 %f47, %f48;
add.f32 	%f50, %f47, 0f3F800000;
rcp.approx.f32 %f49, %f50;
mul.f32 	%f60, %f46, %f49;
@%p3 bra 	LBB7_17;
cvt.f32.f16 %f55, %rs32;
mul.f32 	%f60, %f60, %f55;
LBB7_17:
cvt.rn.f16.f32 %rs28, %f60;
add.s64 	%rd30, %rd1, %rd41;
cvt.u64.u16 	%rd31, %rs28;
shl.b64 	%rd32, %rd31, 48;
cvt.u64.u16 	%rd33, %rs25;
shl.b64 	%rd34, %rd33, 32;
or.b64  	%rd35, %rd32, %rd34;
cvt.u32.u16 	%r8, %rs22;
mul.wide.u32 	%rd36, %r8, 65536;
or.b64  	%rd37, %rd35, %rd36;
cvt.u64.u16 	%rd38, %rs19;
or.b64  	%rd39, %rd37, %rd38;
st.global.u64 	[%rd30], %rd39;
LBB7_18:
ret;
}
)ptx"},
};

}  // namespace mlxterp::cuda
