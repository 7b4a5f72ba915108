// The int8 products of one instruction set.
#include "int8.hpp"

namespace recurra {
namespace RECURRA_ISA {

#define RECURRA_TEXT_OF(name) #name
#define RECURRA_TEXT(name) RECURRA_TEXT_OF(name)
extern const Int8Kernels int8_kernels;
const Int8Kernels int8_kernels = {RECURRA_TEXT(RECURRA_ISA), Int8::quantise, Int8::product};

}  // namespace RECURRA_ISA
}  // namespace recurra
