#include "compute/gpu/internal.h"

// Why views: on a CPU driver a load by address is one gather instruction or sixteen scalar loads, and a load of a storage
// texel buffer is a 128-bit load a lane. So blocks of device memory are also shown as buffers of 16-byte texels, all in one
// descriptor set that is bound once a command buffer. A kernel picks its view by an index in its arguments.

bool views_fit(const struct gpu_device *dev)
{
    return dev->caps.type == GPU_CPU && dev->caps.texel_views;
}

VkResult views_layout(struct gpu_device *dev, VkDescriptorSetLayout *out)
{
    // A set changes while command buffers that name it wait to be replayed: only places that none of them reads change.
    const VkDescriptorBindingFlags flags =
        VK_DESCRIPTOR_BINDING_PARTIALLY_BOUND_BIT | VK_DESCRIPTOR_BINDING_UPDATE_UNUSED_WHILE_PENDING_BIT;
    return dev->vk->CreateDescriptorSetLayout(
        dev->handle,
        &(VkDescriptorSetLayoutCreateInfo){
            .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO,
            .pNext =
                &(VkDescriptorSetLayoutBindingFlagsCreateInfo){
                    .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_BINDING_FLAGS_CREATE_INFO,
                    .bindingCount = 1,
                    .pBindingFlags = &flags,
                },
            .bindingCount = 1,
            .pBindings =
                &(VkDescriptorSetLayoutBinding){
                    .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_TEXEL_BUFFER,
                    .descriptorCount = GPU_VIEWS,
                    .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT,
                },
        },
        NULL, out);
}

bool views_init(struct gpu_device *dev, struct vireo_error *err)
{
    struct gpu_views *v = &dev->views;
    if (!views_fit(dev))
        return true;
    VkResult r = views_layout(dev, &v->layout);
    if (r == VK_SUCCESS)
        r = dev->vk->CreateDescriptorPool(
            dev->handle,
            &(VkDescriptorPoolCreateInfo){
                .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO,
                .maxSets = 1,
                .poolSizeCount = 1,
                .pPoolSizes = &(VkDescriptorPoolSize){VK_DESCRIPTOR_TYPE_STORAGE_TEXEL_BUFFER, GPU_VIEWS},
            },
            NULL, &v->pool);
    if (r == VK_SUCCESS)
        r = dev->vk->AllocateDescriptorSets(dev->handle,
                                            &(VkDescriptorSetAllocateInfo){
                                                .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
                                                .descriptorPool = v->pool,
                                                .descriptorSetCount = 1,
                                                .pSetLayouts = &v->layout,
                                            },
                                            &v->set);
    if (r != VK_SUCCESS)
        return vireo_fail(err, VIREO_UNAVAILABLE, "no descriptors for views of memory: %s", vk_result_name(r));
    device_name(dev, VK_OBJECT_TYPE_DESCRIPTOR_SET, GPU_HANDLE(v->set), "views");
    return true;
}

void views_finish(struct gpu_device *dev)
{
    struct gpu_views *v = &dev->views;
    if (v->pool)
        dev->vk->DestroyDescriptorPool(dev->handle, v->pool, NULL);
    if (v->layout)
        dev->vk->DestroyDescriptorSetLayout(dev->handle, v->layout, NULL);
    *v = (struct gpu_views){0};
}

void view_add(struct gpu_device *dev, struct gpu_block *b)
{
    struct gpu_views *v = &dev->views;
    const uint64_t texels = b->bytes / GPU_TEXEL_BYTES;
    uint32_t place = 0;
    while (place < GPU_VIEWS && v->taken[place])
        place++;
    b->view = GPU_VIEWS;
    if (!v->set || place == GPU_VIEWS || texels == 0 || texels > dev->caps.max_texels)
        return;
    VkResult r = dev->vk->CreateBufferView(dev->handle,
                                           &(VkBufferViewCreateInfo){
                                               .sType = VK_STRUCTURE_TYPE_BUFFER_VIEW_CREATE_INFO,
                                               .buffer = b->buffer,
                                               .format = VK_FORMAT_R32G32B32A32_UINT,
                                               .range = texels * GPU_TEXEL_BYTES,
                                           },
                                           NULL, &v->handles[place]);
    if (r != VK_SUCCESS)
        return; // the block is read by its address alone
    v->taken[place] = true;
    b->view = place;
    dev->vk->UpdateDescriptorSets(dev->handle, 1,
                                  &(VkWriteDescriptorSet){
                                      .sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
                                      .dstSet = v->set,
                                      .dstArrayElement = place,
                                      .descriptorCount = 1,
                                      .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_TEXEL_BUFFER,
                                      .pTexelBufferView = &v->handles[place],
                                  },
                                  0, NULL);
}

void view_remove(struct gpu_device *dev, struct gpu_block *b)
{
    struct gpu_views *v = &dev->views;
    if (b->view >= GPU_VIEWS || !v->taken[b->view])
        return;
    dev->vk->DestroyBufferView(dev->handle, v->handles[b->view], NULL);
    v->taken[b->view] = false;
    b->view = GPU_VIEWS;
}

void views_bind(struct gpu_device *dev, VkCommandBuffer commands)
{
    if (dev->views.set)
        dev->vk->CmdBindDescriptorSets(commands, VK_PIPELINE_BIND_POINT_COMPUTE, dev->pipelines.layout, 0, 1, &dev->views.set,
                                       0, NULL);
}

bool gpu_span_view(struct gpu_span s, uint32_t *view, uint32_t *texel)
{
    if (!s.block || s.block->view >= GPU_VIEWS || s.offset % GPU_TEXEL_BYTES != 0)
        return false;
    *view = s.block->view;
    *texel = (uint32_t)(s.offset / GPU_TEXEL_BYTES);
    return true;
}
