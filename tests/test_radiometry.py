"""DN, power, dB; which product a file is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartutorial import InputError, radiometry


def test_dn_to_db_and_back_is_exact_for_every_dn():
    dn = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(radiometry.db_to_dn(radiometry.dn_to_db(dn)), dn)


def test_calibration_is_jaxas():
    db = radiometry.dn_to_db(np.array([1, 1000, 65535], np.uint16))
    assert db == pytest.approx([-83.0, -23.0, 20 * np.log10(65535) - 83], abs=1e-5)


def test_dn_0_has_no_backscatter():
    db = radiometry.dn_to_db(np.array([0, 1], np.uint16))
    assert np.isnan(db[0])
    assert np.isfinite(db[1])


def test_nan_becomes_nodata_and_nothing_else_does():
    dn = radiometry.db_to_dn(np.array([np.nan, -200.0, 200.0]))
    assert dn.tolist() == [0, 1, 65535]


@given(st.floats(-60, 30))
def test_power_and_db_are_inverse(db):
    assert radiometry.to_db(radiometry.to_power(db)) == pytest.approx(db, abs=1e-9)


def test_other_dtypes_are_refused():
    with pytest.raises(InputError, match="uint16"):
        radiometry.dn_to_db(np.zeros(3, np.float32))


LEVEL_21 = "IMG-HH-ALOS2458503210-221119-UBSR2.1GUD.tif"
SCANSAR = "ALOS2397743750-211004_WBDR2.2GUD_HH_SLP.tif"
MOSAIC = "N23W161_20_sl_HH_F02DAR.tif"


@pytest.mark.parametrize(
    ("path", "level", "quantity", "polarisation", "mask"),
    [
        (LEVEL_21, "2.1", "sigma0", "HH", None),
        (f"https://example.org/a/{LEVEL_21}?key=1", "2.1", "sigma0", "HH", None),
        ("IMG-HV-ALOS2458503210-221119-FBDL1.5GUA.tif", "1.5", "sigma0", "HV", None),
        (f"a/{MOSAIC}", "mosaic", "gamma0", "HH", "a/N23W161_20_mask_F02DAR.tif"),
        (f"/vsitar/a.tar.gz/{MOSAIC}", "mosaic", "gamma0", "HH",
         "/vsitar/a.tar.gz/N23W161_20_mask_F02DAR.tif"),
        ("/N33E135_15_sl_HV_F02DAR", "mosaic", "gamma0", "HV", "/N33E135_15_mask_F02DAR"),
        ("N33E135_07_sl_HH", "mosaic", "gamma0", "HH", "N33E135_07_mask"),
        ("N33E135_07_sl_HH.tif", "mosaic", "gamma0", "HH", "N33E135_07_mask.tif"),
        (SCANSAR, "2.2", "gamma0", "HH", "ALOS2397743750-211004_WBDR2.2GUD_MSK.tif"),
        ("AIRSAR-VV-FLEVOLAND.tif", "AIRSAR", "sigma0", "VV", None),
    ],
)  # fmt: skip
def test_a_product_is_recognised_by_its_name(path, level, quantity, polarisation, mask):
    product = radiometry.product(path, {"POLARISATION": "VH"})  # a name of JAXA's knows better
    assert (product.level, product.quantity, product.mask) == (level, quantity, mask)
    assert product.polarisation == polarisation
    assert product.calibration_db == -83


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("IMG-HH-ALOS2458503210-221119-UBSR3.1GUD.tif", r"level 3\.1 cannot be calibrated"),
        ("IMG-HH-ALOS2458503210-221119-UBSR1.1__D.tif", r"level 1\.1 cannot be calibrated"),
        ("IMG-HH-ALOS2458503210-221119-UBSR9.9GUD.tif", r"level 9\.9 cannot be calibrated"),
        ("tokyo.tif", "its unit is unknown.*--quantity sigma0"),
        ("N23W161_20_sl_HH_F02DAR/tokyo.tif", "its unit is unknown"),  # a folder is not the name
        ("IMG-HH-ALOS2458503210-221119.tif", "its unit is unknown"),
    ],
)
def test_an_unknown_unit_is_refused_until_somebody_says_it(name, words):
    with pytest.raises(InputError, match=f"{name}: .*{words}"):
        radiometry.product(name)
    assert radiometry.product(name, {"QUANTITY": "gamma0"}).quantity == "gamma0"
    assert radiometry.product(name, {}, "gamma0").quantity == "gamma0"
    assert radiometry.product(name, {"QUANTITY": "gamma0"}, "sigma0").quantity == "sigma0"
    with pytest.raises(InputError, match="holds beta0"):
        radiometry.product(name, {"QUANTITY": "beta0"})


@pytest.mark.parametrize(
    ("name", "tags", "polarisation"),
    [
        ("tokyo.tif", {}, "unknown"),
        ("tokyo.tif", {"POLARISATION": "HV"}, "HV"),
        ("tokyo_HV.tif", {}, "HV"),
        ("s1-vv-20200101.tif", {}, "VV"),
        ("TOHHOKU.tif", {}, "unknown"),
    ],
)
def test_the_polarisation_is_what_name_or_tag_say(name, tags, polarisation):
    assert radiometry.product(name, tags, "sigma0").polarisation == polarisation


def test_the_calibration_factor_travels_in_a_tag():
    product = radiometry.product(MOSAIC, {"QUANTITY": "gamma0", "CALIBRATION_DB": "-80.5"})
    assert product.calibration_db == -80.5
    table = radiometry.lookup_table(product.calibration_db)
    assert table[1000] == pytest.approx(-20.5)
    assert radiometry.product(LEVEL_21, {"CALIBRATION_DB": "-80.5"}).calibration_db == -80.5
    said = radiometry.product("x.tif", {"CALIBRATION_DB": "-80.5"}, "sigma0")
    assert said.calibration_db == -80.5


@pytest.mark.parametrize("tag", ["minus 83", "", "nan", "-inf"])
def test_a_calibration_factor_that_is_no_number_is_named(tag):
    with pytest.raises(
        InputError, match=rf"{LEVEL_21}: its tag CALIBRATION_DB is '{tag}', no number"
    ):
        radiometry.product(LEVEL_21, {"CALIBRATION_DB": tag})
