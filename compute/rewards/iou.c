// Continuous IoU of the first [x1, y1, x2, y2] (whole numbers) in the first answer block with the reference box.
// VLM-R1: iou_reward of the VLM modules, but with the continuous IoU instead of the one by pixel counts, which loses
// overlaps up to one pixel wide. coords says what the model's box is measured in:
//   model_input (default)  pixels of the resized image the model saw; scaled to the file's by image_size / model_size
//   absolute               the reference's own units, used as they are
#include "compute/base/json.h"
#include "compute/rewards/parse.h"
#include "compute/rewards/reward.h"

enum { MODEL_INPUT, ABSOLUTE };
static const char *const coords[] = {"model_input", "absolute", NULL};
static const char *const known[] = {"coords", NULL};

static bool check(const json_t *params, const char *path, struct vireo_error *err)
{
    const char *unknown;
    int choice = MODEL_INPUT;
    if (!params)
        return true;
    if (json_find_unknown((json_t *)params, known, &unknown)) {
        char full[128];
        return vireo_fail_kind(err, VIREO_INVALID, "unknown_parameter", json_path(full, sizeof full, path, unknown),
                               "Unknown parameter '%.60s': iou takes 'coords'.", unknown);
    }
    return json_get_choice(params, path, "coords", coords, &choice, err);
}

static bool score(const struct reward_input *in, struct reward_result *out, struct vireo_error *err)
{
    double truth[4], box[4];
    struct text answer;
    int choice = MODEL_INPUT;
    if (in->params && !json_get_choice(in->params, "params", "coords", coords, &choice, NULL))
        return reward_give(out, REWARD_BAD_DATA, 0, "params.coords is not a known coordinate space");
    if (!in->reference || !box_of_reference(parse_text_of(in->reference, in->reference_bytes), truth))
        return reward_give(out, REWARD_BAD_DATA, 0, "the reference is not a box of four numbers");
    if (choice == MODEL_INPUT)
        for (int i = 0; i < 2; i++)
            if (!(in->image_size[i] > 0 && in->model_size[i] > 0))
                return reward_give(out, REWARD_BAD_DATA, 0,
                                   "coords model_input needs image_size and image_grid_thw of the row");
    if (!answer_first(parse_text_of(in->completion, in->completion_bytes), &answer))
        return reward_give(out, REWARD_UNREADABLE, 0, "no <answer>…</answer> in the text");
    if (!box_find(answer, 0, box, NULL, NULL))
        return reward_give(out, REWARD_UNREADABLE, 0, "no [x1, y1, x2, y2] of whole numbers in the answer");
    if (choice == MODEL_INPUT)
        for (int i = 0; i < 4; i++)
            box[i] = box[i] / in->model_size[i % 2] * in->image_size[i % 2];
    double iou = box_iou(box, truth);
    return reward_give(out, REWARD_OK, iou, "IoU %.4f of [%.6g, %.6g, %.6g, %.6g] with [%.6g, %.6g, %.6g, %.6g]", iou,
                       box[0], box[1], box[2], box[3], truth[0], truth[1], truth[2], truth[3]);
}

const struct reward_rule reward_iou = {
    .name = "iou",
    .summary = "IoU of the first box in the answer with the reference (params.coords: model_input, absolute)",
    .needs_reference = true,
    .check = check,
    .score = score,
};
