// Made by scripts/make_ptx.sh from adam.cu; not to be edited.

#pragma once

#include <map>
#include <string>

namespace mlxterp::cuda {

inline const std::map<std::string, std::string> adam_kernels = {
    {"adam", R"ptx(.version 7.0
.target sm_80
.address_size 64
.visible .entry adam(
.param .u64 adam_param_0,
.param .u64 adam_param_1,
.param .u64 adam_param_2,
.param .u64 adam_param_3,
.param .u64 adam_param_4,
.param .u64 adam_param_5,
.param .u64 adam_param_6,
.param .u32 adam_param_7,
.param .f32 adam_param_8,
.param .f32 adam_param_9,
.param .f32 adam_param_10,
.param .f32 adam_param_11,
.param .f32 adam_param_12,
.param .f32 adam_param_13,
.param .f32 adam_param_14,
.param .f32 adam_param_15
)
.maxntid 256, 1, 1
{
.reg .pred 	%p<2>;
.reg .b32 	%r<6>;
.reg .f32 	%f<24>;
.reg .b64 	%rd<23>;
ld.param.u32 	%r4, [adam_param_7];
mov.u32 %r2, %ctaid.x;
shl.b32 	%r5, %r2, 8;
mov.u32 %r3, %tid.x;
add.s32 	%r1, %r5, %r3;
setp.ge.s32 	%p1, %r1, %r4;
@%p1 bra 	LBB0_2;
ld.param.f32 	%f8, [adam_param_15];
ld.param.f32 	%f7, [adam_param_14];
ld.param.f32 	%f6, [adam_param_13];
ld.param.f32 	%f5, [adam_param_12];
ld.param.f32 	%f4, [adam_param_11];
ld.param.f32 	%f3, [adam_param_10];
ld.param.f32 	%f2, [adam_param_9];
ld.param.f32 	%f1, [adam_param_8];
ld.param.u64 	%rd8, [adam_param_0];
ld.param.u64 	%rd9, [adam_param_6];
cvta.to.global.u64 	%rd1, %rd9;
ld.param.u64 	%rd10, [adam_param_1];
ld.param.u64 	%rd11, [adam_param_5];
cvta.to.global.u64 	%rd2, %rd11;
ld.param.u64 	%rd12, [adam_param_2];
ld.param.u64 	%rd13, [adam_param_4];
cvta.to.global.u64 	%rd3, %rd13;
ld.param.u64 	%rd14, [adam_param_3];
cvta.to.global.u64 	%rd4, %rd14;
cvta.to.global.u64 	%rd5, %rd12;
cvta.to.global.u64 	%rd6, %rd10;
cvta.to.global.u64 	%rd7, %rd8;
mul.wide.s32 	%rd15, %r1, 4;
add.s64 	%rd16, %rd4, %rd15;
ld.global.f32 	%f14, [%rd16];
mul.f32 	%f15, %f14, %f1;
add.s64 	%rd17, %rd6, %rd15;
ld.global.f32 	%f16, [%rd17];
mul.f32 	%f17, %f15, %f4;
fma.rn.f32 	%f18, %f16, %f2, %f17;
add.s64 	%rd18, %rd5, %rd15;
ld.global.f32 	%f19, [%rd18];
mul.f32 	%f20, %f15, %f5;
mul.f32 	%f21, %f15, %f20;
fma.rn.f32 	%f10, %f19, %f3, %f21;
add.s64 	%rd19, %rd2, %rd15;
st.global.f32 	[%rd19], %f18;
add.s64 	%rd20, %rd1, %rd15;
st.global.f32 	[%rd20], %f10;
sqrt.rn.f32 %f9, %f10;
mul.f32 	%f12, %f18, %f6;
fma.rn.f32 	%f13, %f9, %f7, %f8;
div.rn.f32 %f11, %f12, %f13;
add.s64 	%rd21, %rd7, %rd15;
ld.global.f32 	%f22, [%rd21];
sub.f32 	%f23, %f22, %f11;
add.s64 	%rd22, %rd3, %rd15;
st.global.f32 	[%rd22], %f23;
LBB0_2:
ret;
}
)ptx"},
};

}  // namespace mlxterp::cuda
