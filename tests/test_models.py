import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hvdclip import models
from hvdclip.models.resnet import Block

SMALL = {"embedding": 6, "hidden": 8, "layers": 3}
NO_DROPOUT = {
    "dropout": 0.0,
    "dropout_hidden": 0.0,
    "dropout_input": 0.0,
    "dropout_embedding": 0.0,
    "weight_drop": 0.0,
}
VOCABULARY = 20


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def small(**settings):
    return models.build("awd_lstm", VOCABULARY, **{**SMALL, **NO_DROPOUT, **settings})


def tokens(time=5, batch=3):
    return torch.randint(VOCABULARY, (time, batch))


def lstm_calls(model, monkeypatch):
    """The arguments of torch.lstm in one forward pass, layer by layer."""
    calls, original = [], torch.lstm
    with monkeypatch.context() as patch:
        patch.setattr(torch, "lstm", lambda *args, **settings: calls.append(args) or original(*args, **settings))
        model(tokens(), model.initial_state(3))
    return calls


@pytest.mark.parametrize(("vocabulary", "count"), [(10_000, 24_221_600), (33_278, 33_556_078)])
def test_awd_lstm_has_the_papers_number_of_parameters(vocabulary, count):
    with torch.device("meta"):
        model = models.build("awd_lstm", vocabulary)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize("name", ["awd_lstm", "lstm"])
def test_tied_models_have_one_matrix_for_embedding_and_decoder(name):
    sizes = {"embedding": 8, "hidden": 8}
    tied, untied = (models.build(name, VOCABULARY, **sizes, tied=tied) for tied in (True, False))
    assert tied.decoder.weight is tied.embedding.weight
    assert untied.decoder.weight is not untied.embedding.weight
    assert len(list(tied.parameters())) == len(list(untied.parameters())) - 1


def test_untied_awd_lstm_ends_in_the_hidden_size():
    model = small(tied=False)
    assert model.decoder.weight.shape == (VOCABULARY, SMALL["hidden"])
    logits, _, _ = model(tokens(), model.initial_state(3))
    assert logits.shape == (5, 3, VOCABULARY)


def test_initial_weights_keep_to_their_ranges():
    model = models.build("awd_lstm", 500, embedding=16, hidden=64, layers=2)
    assert 0.099 < model.embedding.weight.abs().max() <= 0.1
    assert model.decoder.bias.abs().max() == 0
    for layer, size in zip(model.layers, (64, 16), strict=True):
        for parameter in layer.parameters():
            assert 0.8 / size**0.5 < parameter.abs().max() <= 1 / size**0.5


@pytest.mark.parametrize("training", [True, False])
def test_awd_lstm_without_dropout_is_a_stack_of_plain_lstms(training):
    model = small().train(training)
    text, state = tokens(), model.initial_state(3)
    hidden = model.embedding(text)
    for layer in model.layers:
        plain = nn.LSTM(layer.weight_ih.shape[1], layer.weight_hh.shape[1])
        plain.load_state_dict({f"{name}_l0": value for name, value in layer.state_dict().items()})
        hidden, _ = plain(hidden)
    expected = hidden @ model.embedding.weight.T + model.decoder.bias
    logits, _, _ = model(text, state)
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["awd_lstm", "lstm"])
def test_state_carries_the_text_read_so_far(name):
    model = models.build(name, VOCABULARY, **SMALL).eval()
    text = tokens(time=7)
    whole, _, _ = model(text, model.initial_state(3))
    first, state, _ = model(text[:4], model.initial_state(3))
    second, _, _ = model(text[4:], models.detach(state))
    torch.testing.assert_close(torch.cat([first, second]), whole, atol=1e-6, rtol=0)


def test_detach_cuts_every_tensor_and_keeps_the_nesting():
    model = small()
    _, state, _ = model(tokens(), model.initial_state(3))
    detached = models.detach(state)
    assert [len(pair) for pair in detached] == [2, 2, 2]
    for pair, original in zip(detached, state, strict=True):
        for tensor, source in zip(pair, original, strict=True):
            assert source.requires_grad and not tensor.requires_grad
            assert torch.equal(tensor, source)


def test_locked_dropout_keeps_one_mask_for_all_time_steps():
    rate = 0.4
    masks = small()._locked(torch.ones(9, 3, 50), rate)
    assert torch.equal(masks, masks[:1].expand_as(masks))
    assert set(masks.unique().tolist()) == {0.0, torch.tensor(1 / (1 - rate)).item()}
    assert not torch.equal(masks[0, 0], masks[0, 1])  # each sequence of the batch has its own


def test_locked_dropout_falls_on_the_input_of_every_layer_and_of_the_decoder(monkeypatch):
    model = small(dropout_input=0.5, dropout_hidden=0.5, dropout=0.5)
    inputs = []
    model.decoder.register_forward_pre_hook(lambda decoder, args: inputs.append(args[0]))
    inputs += [call[0] for call in lstm_calls(model, monkeypatch)]
    assert len(inputs) == 4
    for dropped in (tensor == 0 for tensor in inputs):
        assert dropped[0].any() and not dropped[0].all()
        assert torch.equal(dropped, dropped[:1].expand_as(dropped))


@pytest.mark.parametrize("name", ["dropout", "dropout_hidden", "dropout_input", "dropout_embedding", "weight_drop"])
def test_every_kind_of_dropout_acts_alone_and_only_in_training(name):
    model = small(**{name: 0.5})
    text, state = tokens(), model.initial_state(3)
    trained = model(text, state)[0]
    assert not torch.equal(trained, model(text, state)[0])
    assert not torch.equal(trained, model.eval()(text, state)[0])


def test_embedding_dropout_zeroes_whole_words_and_rescales_the_others():
    rate = 0.5
    model = small(dropout_embedding=rate)
    text = torch.arange(VOCABULARY).repeat(2).view(2, VOCABULARY)
    embedded = model._embed(text)
    kept = (embedded[0] != 0).any(-1)
    assert kept.any() and not kept.all()
    assert torch.equal(embedded[0], model.embedding.weight * kept[:, None] / (1 - rate))
    assert torch.equal(embedded[0], embedded[1])  # a word is dropped wherever it stands


def test_weight_drop_falls_on_recurrent_weights_anew_at_every_forward(monkeypatch):
    model = small(weight_drop=0.5)
    calls = lstm_calls(model, monkeypatch)
    for call, layer in zip(calls, model.layers, strict=True):
        weight_ih, dropped, bias_ih, bias_hh = call[2]
        assert weight_ih is layer.weight_ih and bias_ih is layer.bias_ih and bias_hh is layer.bias_hh
        kept = dropped != 0
        assert 0.3 < kept.float().mean() < 0.7
        assert torch.equal(dropped, layer.weight_hh * kept * 2)
    again = lstm_calls(model, monkeypatch)
    assert not torch.equal(calls[0][2][1], again[0][2][1])


def test_weight_drop_leaves_the_parameter_and_its_gradient_whole():
    model = small(weight_drop=0.5)
    before = model.layers[0].weight_hh.clone()
    logits, _, penalty = model(tokens(), model.initial_state(3))
    (logits.sum() + penalty).backward()
    assert isinstance(model.layers[0].weight_hh, nn.Parameter)
    assert torch.equal(model.layers[0].weight_hh, before)
    assert 0.3 < (model.layers[0].weight_hh.grad != 0).float().mean() < 0.7


@pytest.mark.parametrize("name", ["awd_lstm", "lstm"])
def test_only_training_is_random(name):
    model = models.build(name, VOCABULARY, **{**SMALL, "dropout": 0.5})
    text, state = tokens(), model.initial_state(3)
    assert not torch.equal(model(text, state)[0], model(text, state)[0])
    model.eval()
    assert torch.equal(model(text, state)[0], model(text, state)[0])


def test_penalty_is_ar_plus_tar_of_the_last_layer():
    model = small(alpha=2.0, beta=3.0, dropout=0.5)
    raw, dropped = torch.tensor([[[1.0, 2.0]], [[3.0, -2.0]]]), torch.tensor([[[2.0, 0.0]], [[6.0, 0.0]]])
    # AR: 2 * (4 + 0 + 36 + 0) / 4 = 20; TAR: 3 * (2^2 + (-4)^2) / 2 = 30
    assert model._penalty(raw, dropped).item() == 50.0


def test_penalty_of_a_forward_pass_matches_its_hidden_states():
    model = small(alpha=2.0, beta=1.0)
    text = tokens()
    _, _, penalty = model(text, model.initial_state(3))
    state, last = model.initial_state(3), []
    for step in text:
        _, state, _ = model(step[None], state)
        last.append(state[-1][0])
    hidden = torch.cat(last)
    expected = 2 * hidden.pow(2).mean() + hidden.diff(dim=0).pow(2).mean()
    torch.testing.assert_close(penalty, expected)


def test_penalty_of_a_single_step_has_no_change_to_weigh():
    model = small(alpha=0.0, beta=1.0)
    _, _, penalty = model(tokens(time=1), model.initial_state(3))
    assert penalty.item() == 0.0


@pytest.mark.parametrize(("name", "training"), [("awd_lstm", False), ("lstm", False), ("lstm", True)])
def test_no_penalty_outside_awd_training(name, training):
    model = models.build(name, VOCABULARY, **SMALL).train(training)
    _, _, penalty = model(tokens(), model.initial_state(3))
    assert penalty.shape == () and penalty.item() == 0.0


@pytest.mark.parametrize("name", ["awd_lstm", "lstm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_forward_and_backward_in_every_dtype(name, dtype):
    model = models.build(name, VOCABULARY, **SMALL).to(dtype)
    text, state = tokens(), model.initial_state(3)
    logits, state, penalty = model(text, state)
    assert logits.dtype == penalty.dtype == dtype
    loss = F.cross_entropy(logits.view(-1, VOCABULARY), text.view(-1)) + penalty
    loss.backward()
    for parameter in model.parameters():
        assert parameter.grad.dtype == dtype and parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", ["awd_lstm", "lstm"])
def test_parameters_may_become_views_of_one_vector(name):
    model = models.build(name, VOCABULARY, **SMALL).eval()
    text, state = tokens(), model.initial_state(3)
    before, _, _ = model(text, state)
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    start = 0
    for parameter in model.parameters():
        parameter.data = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    assert torch.equal(model(text, state)[0], before)
    flat.zero_()
    assert model(text, state)[0].abs().max() == 0


@pytest.mark.parametrize("name", ["awd_lstm", "lstm"])
def test_loss_falls_on_a_repeated_text(name):
    model = models.build(name, VOCABULARY, **SMALL)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    text = torch.arange(8).repeat(4)[:, None] % VOCABULARY
    losses = []
    for _ in range(60):
        logits, _, penalty = model(text[:-1], model.initial_state(1))
        loss = F.cross_entropy(logits.view(-1, VOCABULARY), text[1:].view(-1)) + penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_unknown_model_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown model 'gru'; allowed: awd_lstm, cleaning, cnn, gpt, lstm"):
        models.build("gru", VOCABULARY)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("awd_lstm", {"layers": 0}, "layers=0: must be a whole number of at least 1"),
        ("awd_lstm", {"hidden": 2.5}, "hidden=2.5: must be a whole number"),
        ("awd_lstm", {"weight_drop": 1.0}, r"weight_drop=1.0: must be a number with 0 <= weight_drop < 1"),
        ("awd_lstm", {"dropout_input": "0.4"}, "dropout_input='0.4': must be a number"),
        ("awd_lstm", {"alpha": -1.0}, "alpha=-1.0: must be a number with 0 <= alpha < inf"),
        ("awd_lstm", {"beta": float("nan")}, "beta=nan: must be a number with 0 <= beta < inf"),
        ("lstm", {"embedding": -3}, "embedding=-3: must be a whole number"),
        ("lstm", {"dropout": 1.5}, "dropout=1.5: must be a number with 0 <= dropout < 1"),
        ("lstm", {"tied": True}, "hidden=256, embedding=64: must be equal when tied is true"),
    ],
)
def test_settings_out_of_range_are_named(name, settings, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, VOCABULARY, **settings)


@pytest.mark.parametrize(("depth", "count"), [(20, 269_722), (32, 464_154), (56, 853_018), (110, 1_727_962)])
def test_resnets_have_the_papers_number_of_parameters(depth, count):
    """With shortcuts of option A, for 10 classes of images of three channels."""
    with torch.device("meta"):
        resnet = models.build("resnet", shape=(3, 32, 32), classes=10, depth=depth)
    assert sum(parameter.numel() for parameter in resnet.parameters()) == count


def test_a_shortcut_is_every_second_pixel_between_channels_of_zeros():
    block = Block(16, 32).eval()
    torch.nn.init.zeros_(block.norm2.weight)  # the inner branch is then silent
    images = torch.rand(2, 16, 8, 8)
    found = block(images)
    assert torch.equal(found[:, 8:24], images[:, :, ::2, ::2])
    assert not found[:, :8].any() and not found[:, 24:].any()


@pytest.mark.parametrize("name", ["cnn", "mlp", "resnet", "resnet18", "vit_b_32", "googlenet"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 64, 64)])
def test_images_become_logits(name, shape):
    if name == "googlenet":
        shape = (3, 96, 96)  # the least that it takes
    sizes = {"depth": 8} if name == "resnet" else {}
    model = models.build(name, shape=shape, classes=7, **sizes)
    assert model(torch.rand(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 11_689_512), ("resnet50", 25_557_032), ("vgg16", 138_357_544)]
)
def test_torchvisions_models_have_their_published_number_of_parameters(name, count):
    with torch.device("meta"):
        model = models.build(name, shape=(3, 224, 224), classes=1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_what_is_no_image_or_no_depth_is_refused():
    with pytest.raises(
        ValueError, match=r"have the shape \(10,\); allowed: images \(channels, height, width\) from 4 x 4"
    ):
        models.build("cnn", shape=(10,), classes=2)
    with pytest.raises(ValueError, match=r"have the shape \(1, 28, 28\); allowed: images \(3, height, width\)"):
        models.build("resnet50", shape=(1, 28, 28), classes=2)
    with pytest.raises(ValueError, match=r"depth is 21; allowed: 6n \+ 2, such as 20, 32, 44, 56 and 110"):
        models.build("resnet", shape=(1, 28, 28), classes=2, depth=21)
    with pytest.raises(ValueError, match=r"unknown model 'resnet51'; allowed: .*, or torchvision's classifiers"):
        models.build("resnet51", shape=(3, 28, 28), classes=2)
