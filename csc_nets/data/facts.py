"""What is known of each data set before a file is read."""

from dataclasses import dataclass

DIGITS = tuple("0123456789")
CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


@dataclass(frozen=True)
class Facts:
    """Facts of one data set. Means and standard deviations are of the training images, with white at 1.

    The two embedded sets are split here, and compute them from the images that a split trains on; those below are of
    the usual split.

    Args:
        class_names: One name a class, in the order of the labels.
        in_chans: Channels of an image.
        image_size: Height and width in pixels.
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        crop_padding: Customary padding of the random training crop.
        flip: Whether mirroring keeps the class.
        files: Where the files lie under the root, for the message when they are missing.
    """

    class_names: tuple[str, ...]
    in_chans: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int = 0
    flip: bool = False
    files: str = ""


_IDX = "{train,t10k}-images-idx3-ubyte and {train,t10k}-labels-idx1-ubyte"

FACTS = {
    "digits": Facts(DIGITS, 1, 8, (0.3043,), (0.3757,)),
    "sample_images": Facts(("china", "flower"), 3, 32, (0.4319, 0.4326, 0.3805), (0.3582, 0.2849, 0.3123)),
    "mnist": Facts(DIGITS, 1, 28, (0.1307,), (0.3081,), files=f"MNIST/raw/: {_IDX}"),
    "fashion_mnist": Facts(
        ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle_boot"),
        1,
        28,
        (0.2860,),
        (0.3530,),
        flip=True,
        files=f"FashionMNIST/raw/: {_IDX}",
    ),
    "cifar10": Facts(
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        3,
        32,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        crop_padding=4,
        flip=True,
        files="cifar-10-batches-py/: data_batch_1 to data_batch_5, test_batch and batches.meta",
    ),
    "cifar100": Facts(
        tuple(CIFAR100.split()),
        3,
        32,
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        crop_padding=4,
        flip=True,
        files="cifar-100-python/: train, test and meta",
    ),
    "svhn": Facts(
        DIGITS,
        3,
        32,
        (0.4377, 0.4438, 0.4728),
        (0.1980, 0.2010, 0.1970),
        crop_padding=4,
        files="train_32x32.mat and test_32x32.mat",
    ),
    "stl10": Facts(
        ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
        3,
        96,
        (0.4467, 0.4398, 0.4066),
        (0.2603, 0.2566, 0.2713),
        crop_padding=12,
        flip=True,
        files="stl10_binary/: train_X.bin, train_y.bin, unlabeled_X.bin, test_X.bin, test_y.bin and class_names.txt",
    ),
}

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
