// Linear layers on planes: y[M planes] = epilogue(W[M, K] . x[K planes]).
#pragma once
#include "linear_bitmap.h"
#include "linear_block.h"
#include "linear_csr.h"
#include "linear_nm.h"
#include "linear_rows.h"
#include "linear_split.h"
