#include "compute/train/policy_loss.h"

double policy_token_weight(enum loss_type type, const struct policy_rows *b, uint32_t row)
{
    uint64_t sum = 0;
    switch (type) {
    case LOSS_GRPO:
        return 1.0 / ((double)b->rows * (b->lengths[row] ? b->lengths[row] : 1)) / b->accumulation;
    case LOSS_BNPO:
        for (uint32_t i = 0; i < b->rows; i++)
            sum += b->lengths[i];
        return 1.0 / (double)(sum ? sum : 1) / b->accumulation;
    case LOSS_DR_GRPO:
        return 1.0 / ((double)b->rows * b->max_completion_length) / b->accumulation;
    case LOSS_DAPO:
        return 1.0 / (double)(b->num_items ? b->num_items : 1);
    }
    return 0;
}
